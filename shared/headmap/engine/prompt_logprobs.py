"""Log probabilities of a prompt's own tokens, from the hidden states of its prefill."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from headmap.engine.messages import Token

_ROWS = 256
"""Positions whose logits exist at a time: all of a long prompt's would take gigabytes."""


def prompt_logprobs(
    lm_head: nn.Module,
    hidden: torch.Tensor,
    token_ids: Sequence[int],
    top: int,
    image_token: int,
    on_rows: Callable[[], None] | None = None,
) -> tuple[Token, ...]:
    """The tokens with their natural log probabilities and the `top` likeliest ones in each place.

    hidden: (n, hidden_size), the last hidden states of the n tokens. They come from the whole prompt, before anything
    is evicted. The first token has no log probability, and pictures' tokens have none. `on_rows` is called after each
    piece of the work and may raise to end it.
    """
    told = [Token(token, "") for token in token_ids]
    places = [place for place in range(1, len(token_ids)) if token_ids[place] != image_token]
    for start in range(0, len(places), _ROWS):
        some = places[start : start + _ROWS]
        logits = lm_head(hidden[[place - 1 for place in some]]).float()
        normaliser = logits.logsumexp(-1, keepdim=True)
        own = torch.tensor([token_ids[place] for place in some], device=logits.device)[:, None]
        best = logits.topk(min(top, logits.shape[-1]))
        values = (logits.gather(1, own) - normaliser)[:, 0].tolist()
        others = zip(best.indices.tolist(), (best.values - normaliser).tolist(), strict=True)
        for place, value, (ids, theirs) in zip(some, values, others, strict=True):
            told[place] = Token(token_ids[place], "", value, tuple(zip(ids, theirs, strict=True)))
        if on_rows is not None:
            on_rows()
    return tuple(told)
