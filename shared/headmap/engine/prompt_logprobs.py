"""Log probabilities of a prompt's own tokens, from the hidden states of its prefill."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import nn

from headmap.engine.messages import Token

_ROWS = 256
"""Positions whose logits exist at a time: all of a long prompt's would take gigabytes."""


def prompt_logprobs(
    lm_head: nn.Module, hidden: torch.Tensor, token_ids: Sequence[int], top: int, image_token: int
) -> tuple[Token, ...]:
    """The tokens with their natural log probabilities and the `top` likeliest ones in each place.

    hidden: (n, hidden_size), the last hidden states of the n tokens. They come from the whole prompt, before anything
    is evicted. The first token has no log probability, and pictures' tokens have none.
    """
    told = [Token(token_ids[0], "")]
    for start in range(0, len(token_ids) - 1, _ROWS):
        following = token_ids[start + 1 : start + 1 + _ROWS]
        told += _rows(lm_head, hidden[start : start + len(following)], following, top, image_token)
    return tuple(told)


def _rows(
    lm_head: nn.Module, hidden: torch.Tensor, following: Sequence[int], top: int, image_token: int
) -> Iterator[Token]:
    logs = lm_head(hidden).float().log_softmax(dim=-1)
    own = logs.gather(1, torch.tensor(following, device=logs.device)[:, None])[:, 0].tolist()
    values, ids = (of.tolist() for of in logs.topk(min(top, logs.shape[-1]), dim=-1))
    for token, logprob, some, their_ids in zip(following, own, values, ids, strict=True):
        if token == image_token:
            yield Token(token, "")
        else:
            yield Token(token, "", logprob, tuple(zip(their_ids, some, strict=True)))
