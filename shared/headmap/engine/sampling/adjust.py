"""Changes to the logits before a token is chosen: bias, penalties, grammars, answers that may not end yet."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from headmap.engine.sampling.request_state import RequestState
from headmap.errors import HeadmapError, InvalidParameter

_FLOAT32 = np.finfo(np.float32)


def adjust(logits: torch.Tensor, states: Sequence[RequestState]) -> dict[int, HeadmapError]:
    """Change the rows of `logits`, (S, vocab) float32, in place, as their requests ask.

    Returns an InvalidParameter for each row that cannot go on.
    """
    errors: dict[int, HeadmapError] = {}
    _bias(logits, states, errors)
    _penalise(logits, states)
    for row, state in enumerate(states):
        if state.has_grammar:
            try:
                allowed = state.allowed(logits.shape[1])
            except HeadmapError as error:
                errors[row] = error
            else:
                logits[row].masked_fill_(~to_device(allowed, logits.device), -torch.inf)
    _forbid_ends(logits, states)
    return errors


def to_device(values: NDArray[np.generic] | torch.Tensor, device: torch.device) -> torch.Tensor:
    """The same values on the device, without waiting for its current work."""
    tensor = torch.as_tensor(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def _bias(logits: torch.Tensor, states: Sequence[RequestState], errors: dict[int, HeadmapError]) -> None:
    asked: list[tuple[int, int, float]] = []
    vocab = logits.shape[1]
    for row, state in enumerate(states):
        bias = state.params.logit_bias
        unknown = [token for token in bias if token >= vocab]
        if unknown:
            errors[row] = InvalidParameter(
                f"logit_bias: {unknown[0]} is not one of the model's {vocab} tokens", param="logit_bias"
            )
        else:
            asked += [(row, token, value) for token, value in bias.items()]
    if asked:
        rows, tokens, values = zip(*asked, strict=True)
        place = to_device(np.array([rows, tokens]), logits.device)
        logits.index_put_(tuple(place), to_device(np.array(values, np.float32), logits.device), accumulate=True)


def _penalise(logits: torch.Tensor, states: Sequence[RequestState]) -> None:
    asked = [row for row, state in enumerate(states) if state.params.penalises]
    if not asked:
        return
    seen, counts = zip(*(states[row].seen for row in asked), strict=True)
    tokens, times = np.concatenate(seen), np.concatenate(counts)
    of = np.repeat(np.arange(len(asked)), [len(one) for one in seen])
    # Prompts may hold tokens that the model cannot write, such as picture tokens.
    writable = tokens < logits.shape[1]
    places = np.stack([np.array(asked)[of], tokens, of, times])[:, writable]
    row, token, nth, said = to_device(places, logits.device)
    repetition, presence, frequency = to_device(_penalties(states, asked), logits.device)[nth].unbind(-1)
    values = logits[row, token]
    # Keskar et al. 2019 (CTRL), section 4.1: divide logits above 0, multiply those below
    values = torch.where(values > 0, values / repetition, values * repetition)
    values = values - presence * (said > 0) - frequency * said
    logits[row, token] = values.clamp(max=float(_FLOAT32.max))


def _penalties(states: Sequence[RequestState], asked: Sequence[int]) -> NDArray[np.float32]:
    """(asked, 3): repetition, presence and frequency penalty."""
    all_params = [states[row].params for row in asked]
    table = np.array([(one.repetition_penalty, one.presence_penalty, one.frequency_penalty) for one in all_params])
    table[:, 0] = np.clip(table[:, 0], _FLOAT32.tiny, _FLOAT32.max)  # so that 0 stays 0, not 0 times infinity
    return table.astype(np.float32)


def _forbid_ends(logits: torch.Tensor, states: Sequence[RequestState]) -> None:
    vocab = logits.shape[1]
    places = [
        (row, token)
        for row, state in enumerate(states)
        if state.too_short and not state.has_grammar
        for token in state.ends
        if token < vocab
    ]
    if places:
        rows, tokens = to_device(np.array(places).T.copy(), logits.device)
        logits[rows, tokens] = -torch.inf
