"""From logits to a token: greedy or sampled, each request with its own generator."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch

from headmap.engine.sampling.grammar import Grammar
from headmap.errors import InvalidParameter


@dataclass(frozen=True)
class SamplingParams:
    """How one request's tokens are chosen and where it stops.

    Raises InvalidParameter naming the field. `top_k` 0 and `top_p` 1 mean no cut. Without a seed one is drawn.
    `top_logprobs`: tell each token's log probability and those of so many likeliest ones; None tells none.
    """

    max_new_tokens: int = 128
    do_sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    top_logprobs: int | None = None
    seed: int = field(default_factory=lambda: secrets.randbits(31))

    def __post_init__(self) -> None:
        checks = (
            ("max_new_tokens", self.max_new_tokens >= 0, "at least 0"),
            ("temperature", 0 < self.temperature < float("inf"), "above 0"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("top_k", self.top_k >= 0, "at least 0"),
            ("repetition_penalty", 0 < self.repetition_penalty < float("inf"), "above 0"),
            ("seed", 0 <= self.seed < 2**63, "at least 0 and below 2^63"),
        )
        for name, holds, meaning in checks:
            if not holds:
                raise InvalidParameter(f"{name}: must be {meaning}, got {getattr(self, name)}", param=name)
        if any(not text for text in self.stop):
            raise InvalidParameter("stop: must not hold an empty string", param="stop")


class Sampler:
    """Chooses one request's tokens. Holds its generator, so the same seed gives the same text whatever else runs.

    With a `grammar` it chooses only what may come next in it; `done` says that the answer is whole.
    """

    def __init__(self, params: SamplingParams, prompt_ids: Iterable[int], grammar: Grammar | None = None) -> None:
        self.params = params
        self._match = None if grammar is None else grammar.start()
        self._generator = torch.Generator().manual_seed(params.seed)
        self._seen = set(prompt_ids) if params.repetition_penalty != 1 else set()

    def choose(self, logits: torch.Tensor) -> int:
        """The next token. `logits`: (vocab,) float32 on the CPU, not changed.

        Raises InvalidParameter where no token goes on in the grammar.
        """
        params = self.params
        if params.repetition_penalty != 1:
            seen = torch.tensor(sorted(self._seen), dtype=torch.int64)
            values = logits[seen]
            # Keskar et al. 2019 (CTRL), section 4.1: divide what is above 0, multiply what is below
            penalised = torch.where(values > 0, values / params.repetition_penalty, values * params.repetition_penalty)
            logits = logits.index_copy(0, seen, penalised)
        if self._match is not None:
            logits = logits.masked_fill(~self._match.allowed(len(logits)), -torch.inf)
        token = int(logits.argmax()) if not params.do_sample else self._draw(logits / params.temperature)
        if params.repetition_penalty != 1:
            self._seen.add(token)
        if self._match is not None:
            self._match.accept(token)
        return token

    @property
    def done(self) -> bool:
        """Whether nothing may follow in the grammar; never without one."""
        return self._match is not None and self._match.done

    def _draw(self, logits: torch.Tensor) -> int:
        ordered, index = logits.sort(descending=True, stable=True)
        if self.params.top_k:
            ordered = ordered[: self.params.top_k]
        weights = ordered.softmax(-1)
        # Keep the tokens before which less than top_p has been gathered: always at least one
        before = weights.cumsum(-1) - weights
        weights = torch.where(before < self.params.top_p, weights, 0.0)
        return int(index[torch.multinomial(weights, 1, generator=self._generator)])


def log_probabilities(logits: torch.Tensor, token: int, top: int) -> tuple[float, tuple[tuple[int, float], ...]]:
    """The model's own log probability of `token`, and its `top` likeliest tokens with theirs, likeliest first.

    `logits`: (vocab,) float32, before temperature, penalties and cuts.
    """
    normaliser = logits.logsumexp(-1)
    best = logits.topk(min(top, len(logits)))
    pairs = zip(best.indices.tolist(), (best.values - normaliser).tolist(), strict=True)
    return float(logits[token] - normaliser), tuple(pairs)
