"""The next token of every running sequence, chosen for all at once on the logits' device."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from headmap.engine.sampling.adjust import adjust, to_device
from headmap.engine.sampling.draws import draw, draw_from_top, highest
from headmap.engine.sampling.params import SamplingParams
from headmap.engine.sampling.request_state import RequestState
from headmap.errors import HeadmapError

_FLOAT32 = np.finfo(np.float32)


class LogProbabilities(NamedTuple):
    """Natural logarithms of the model's own probabilities: the token's, and the likeliest tokens with theirs."""

    token: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Sampled:
    """tokens: (S,) int64, on the logits' device. log_probabilities: of rows that asked. errors: of rows that cannot go
    on; their tokens mean nothing.
    """

    tokens: torch.Tensor
    log_probabilities: dict[int, LogProbabilities]
    errors: dict[int, HeadmapError]


@torch.inference_mode()
def sample(logits: torch.Tensor, states: Sequence[RequestState]) -> Sampled:
    """Choose a token for each of S requests. `logits`: (S, vocab) float32 on any device, **changed in place**.

    In this order: logit bias, repetition, presence and frequency penalties, grammar and `min_tokens`, temperature,
    min-p, top-k, top-p. A row's token depends on its own logits and state alone. States are only read: call `take` to
    tell each its token. The host waits for a CUDA device only where log probabilities are requested.

    `errors` holds the rows that fail (InvalidParameter: a grammar that cannot go on, a bias on an unknown token). A row
    with NaN logits gets any token of the vocabulary; other rows are not affected.
    """
    asked = [row for row, state in enumerate(states) if state.params.top_logprobs is not None]
    raw = logits[to_device(np.array(asked), logits.device)] if asked else None
    errors = adjust(logits, states)
    tokens = _choose(logits, states)
    told = {} if raw is None else _log_probabilities(raw, tokens, {row: states[row].params for row in asked})
    return Sampled(tokens, told, errors)


def _choose(logits: torch.Tensor, states: Sequence[RequestState]) -> torch.Tensor:
    """Each way of choosing takes all its rows at once. If all rows go one way, no row is copied."""
    groups: dict[_Choose, list[int]] = {}
    for row, state in enumerate(states):
        groups.setdefault(_way(state.params), []).append(row)
    if len(groups) == 1:
        (choose,) = groups
        return choose(logits, states)
    tokens = torch.empty(len(states), dtype=torch.int64, device=logits.device)
    for choose, rows in groups.items():
        index = to_device(np.array(rows, np.int64), logits.device)
        tokens[index] = choose(logits[index], [states[row] for row in rows])
    return tokens


_Choose = Callable[[torch.Tensor, Sequence[RequestState]], torch.Tensor]


def _way(params: SamplingParams) -> _Choose:
    if params.greedy:
        return _highest
    return _from_all if params.top_k == 0 and params.top_p == 1 else _from_top


def _highest(rows: torch.Tensor, states: Sequence[RequestState]) -> torch.Tensor:
    return highest(rows)


def _from_all(rows: torch.Tensor, states: Sequence[RequestState]) -> torch.Tensor:
    _scale(rows, states)
    # In place, since fresh memory costs more than the work; exp would be slow over many -inf.
    torch.softmax(rows, -1, out=rows)
    return draw(rows, _uniforms(rows, states))


def _from_top(rows: torch.Tensor, states: Sequence[RequestState]) -> torch.Tensor:
    _scale(rows, states)
    vocab = rows.shape[1]
    top_k = np.array([min(state.params.top_k or vocab, vocab) for state in states])
    top_p = np.array([state.params.top_p for state in states])
    device = rows.device
    return draw_from_top(rows, _uniforms(rows, states), to_device(top_k, device), to_device(top_p, device))


def _scale(rows: torch.Tensor, states: Sequence[RequestState]) -> None:
    """Turn logits into log weights at each row's temperature: the highest is 0, those below min-p are -inf."""
    # Subtract the highest first, so that no temperature overflows.
    rows.sub_(rows.amax(-1, keepdim=True))
    temperature = np.clip([state.params.temperature for state in states], _FLOAT32.tiny, _FLOAT32.max)
    rows.div_(to_device(temperature.astype(np.float32), rows.device)[:, None])
    min_p = [state.params.min_p for state in states]
    if any(min_p):
        lowest = np.array([math.log(share) if share else -math.inf for share in min_p], np.float32)
        rows.masked_fill_(rows < to_device(lowest, rows.device)[:, None], -torch.inf)


def _uniforms(rows: torch.Tensor, states: Sequence[RequestState]) -> torch.Tensor:
    return to_device(np.array([state.uniform() for state in states]), rows.device)


def _log_probabilities(
    raw: torch.Tensor, tokens: torch.Tensor, asked: dict[int, SamplingParams]
) -> dict[int, LogProbabilities]:
    """`raw`: (asked, vocab) float32, before temperature, penalties and cuts. `tokens`: (S,) int64."""
    chosen = tokens[to_device(np.array(list(asked)), raw.device)]
    normaliser = raw.logsumexp(-1, keepdim=True)
    most = min(max(params.top_logprobs or 0 for params in asked.values()), raw.shape[1])
    best = raw.topk(most)
    of_tokens = (raw.gather(1, chosen[:, None]) - normaliser)[:, 0].tolist()
    likeliest, theirs = best.indices.tolist(), (best.values - normaliser).tolist()
    return {
        row: LogProbabilities(of_tokens[n], tuple(zip(likeliest[n], theirs[n], strict=True))[: params.top_logprobs])
        for n, (row, params) in enumerate(asked.items())
    }
