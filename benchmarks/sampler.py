"""What choosing the tokens of a step takes on the CPU, for all sequences at once: greedy, drawn, cut, penalised."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Any

import torch

from benchmarks.report import Recorder
from headmap.engine.sampling.params import SamplingParams
from headmap.engine.sampling.request_state import RequestState
from headmap.engine.sampling.sampler import sample

SEED = 15
VOCABULARY = 152_064  # Qwen2-VL-7B's
SEQUENCES = 32
PROMPT_TOKENS = 3000  # distinct ones, which penalties count

_Make = Callable[[int], SamplingParams]
_DRAWN: dict[str, Any] = {"do_sample": True, "temperature": 0.7}
# Each with its bar in milliseconds, where there is one. The mixed step has half its rows of either kind.
_FIGURES: dict[str, tuple[float | None, _Make]] = {
    "all greedy": (15.0, lambda row: SamplingParams()),
    "all at temperature 0.7": (60.0, lambda row: SamplingParams(**_DRAWN, seed=row)),
    "half greedy, half at 0.7": (60.0, lambda row: SamplingParams(**_DRAWN if row % 2 else {}, seed=row)),
    "min-p 0.05": (None, lambda row: SamplingParams(**_DRAWN, min_p=0.05, seed=row)),
    "top-p 0.9, top-k 50": (None, lambda row: SamplingParams(**_DRAWN, top_p=0.9, top_k=50, seed=row)),
    "top-p 0.9": (None, lambda row: SamplingParams(**_DRAWN, top_p=0.9, seed=row)),
    "all three penalties": (
        None,
        lambda row: SamplingParams(repetition_penalty=1.1, presence_penalty=0.5, frequency_penalty=0.5),
    ),
    "5 log probabilities": (None, lambda row: SamplingParams(top_logprobs=5)),
}


def run(*, record: Recorder, vocab: int = VOCABULARY, sequences: int = SEQUENCES, repeats: int = 15) -> dict[str, Any]:
    """Each figure over steps with logits of one normal distribution."""
    record.begin("sampler", {"vocab": vocab, "sequences": sequences, "repeats": repeats})
    add_rows(record, vocab=vocab, sequences=sequences, repeats=repeats)
    return record.end()


def add_rows(
    record: Recorder, *, vocab: int = VOCABULARY, sequences: int = SEQUENCES, repeats: int = 15
) -> list[dict[str, Any]]:
    """The same as rows of a benchmark that has begun: `{figure, shape, value, unit, bar, holds}`."""
    logits = torch.randn(sequences, vocab, generator=torch.Generator().manual_seed(SEED)) * 3
    rows: list[dict[str, Any]] = []
    for name, (bar, make) in _FIGURES.items():
        value = _milliseconds(logits, make, repeats)
        rows.append(
            {
                "figure": f"sampling: {name}",
                "shape": f"{sequences} sequences, {vocab} tokens",
                "value": value,
                "unit": "ms",
                "bar": bar,
                "holds": bar is None or value <= bar,
            }
        )
        said = "" if bar is None else f" (bar {bar:g})"
        record.add(rows[-1], f"{rows[-1]['figure']:38} {value:7.2f} ms{said}")
    return rows


def _milliseconds(logits: torch.Tensor, make: _Make, repeats: int) -> float:
    """Median of a step: choosing, the tokens on the host, and telling each request its own."""
    states = [RequestState(make(row), range(PROMPT_TOKENS)) for row in range(len(logits))]
    seconds = []
    for _ in range(repeats + 1):
        step = logits.clone()  # sampling changes it
        started = perf_counter()
        tokens = sample(step, states).tokens.tolist()
        for state, token in zip(states, tokens, strict=True):
            state.take(token)
        seconds.append(perf_counter() - started)
    return median(seconds[1:]) * 1e3
