"""Connect the cache to a transformers model by one attention function, registered as "headmap".

A model calls `update(keys, values, layer_idx)` of its cache and passes the result to the attention function. Our caches
return a `LayerAttention` instead of the keys. It holds the cache and the layer. All state is in the cache object,
modules have no state, and transformers is not patched.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from inspect import signature
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

ATTENTION = "headmap"
MASKED_ROWS = 1024
"""The number of queries that are masked at a time, so that a mask never has n x n elements."""


@dataclass(frozen=True)
class PromptMask:
    """The attention mask of a prompt in one layer.

    A token sees itself and all tokens before it. With `window` it sees only the last `window` tokens, including itself.
    spans: (start, end) of pictures whose tokens see each other in both directions.
    """

    window: int | None = None
    spans: tuple[tuple[int, int], ...] = ()

    def visible(self, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """(r, c) bool: whether the token at `rows` (r,) sees the token at `columns` (c,); both int64."""
        seen = columns <= rows[:, None]
        for start, end in self.spans:
            inside = [(places >= start) & (places < end) for places in (rows, columns)]
            seen |= inside[0][:, None] & inside[1]
        if self.window is not None:
            seen &= columns > rows[:, None] - self.window
        return seen

    def hide(self, logits: torch.Tensor, start: int) -> torch.Tensor:
        """Set `logits`, (..., r, n), to -inf in place for columns hidden from the r tokens that begin at `start`."""
        r, n = logits.shape[-2:]
        first = start if self.window is None else 0  # without a window, every row sees all tokens before `start`
        rows, columns = (torch.arange(*ends, device=logits.device) for ends in ((start, start + r), (first, n)))
        logits[..., first:].masked_fill_(~self.visible(rows, columns), -torch.inf)
        return logits

    def after(self, tokens: int) -> PromptMask:
        """Return this mask with `tokens` more tokens before the prompt."""
        return PromptMask(self.window, tuple((start + tokens, end + tokens) for start, end in self.spans))

    def reach(self, start: int, end: int) -> tuple[int, int]:
        """The range of columns, end excluded, that the rows `start` to `end` can see."""
        last = max([end, *(stop for first, stop in self.spans if first < end and stop > start)])
        return (0 if self.window is None else max(0, start - self.window + 1)), last


CAUSAL = PromptMask()


class LayerAttention(ABC):
    """Attention over one layer. A cache's `update` returns it instead of keys and values.

    window: the layer's sliding window, or None if it sees everything.
    """

    window: int | None = None

    def check_positions(self, position_ids: torch.Tensor | None) -> None:  # noqa: B027  # most caches serve all
        """Raise ValueError for positions that the cache does not serve. `position_ids`: the model's own."""

    @abstractmethod
    def attend(self, queries: torch.Tensor, scaling: float) -> torch.Tensor:
        """`queries`: (batch, num_heads, q, head_dim). Returns (batch, q, num_heads, head_dim)."""


def headmap_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: LayerAttention,
    value: LayerAttention,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """The attention function with the signature of transformers.

    Raises TypeError if the model runs without one of our caches. Raises ValueError if a layer's sliding window differs
    from the cache's, if the cache does not support a layer's attention (soft caps, sinks), if it refuses the positions,
    and where the attention weights are asked for.
    """
    del module, value, attention_mask
    if not isinstance(key, LayerAttention):
        raise TypeError(f'attention "{ATTENTION}" needs a headmap cache; classifier-free guidance runs without one')
    key.check_positions(kwargs.get("position_ids"))
    if kwargs.get("output_attentions"):
        raise ValueError("output_attentions: the attention weights never exist as a whole")
    if sliding_window != key.window:
        raise ValueError(f"a layer has a sliding window of {sliding_window}, but its cache has {key.window}")
    for name in ("softcap", "s_aux"):
        if kwargs.get(name) is not None:
            raise ValueError(f"attention with {name} is not served")
    return key.attend(query, query.shape[-1] ** -0.5 if scaling is None else scaling), None


def use_headmap_attention(model: PreTrainedModel) -> None:
    """Switch the text layers of `model` to our attention, in place. Vision towers keep their own attention.

    After this call the model needs one of our caches; without one its attention raises TypeError.
    """
    AttentionInterface.register(ATTENTION, headmap_attention)
    only_text = model.config.get_text_config() is model.config
    model.set_attn_implementation(ATTENTION if only_text else {"text_config": ATTENTION})


def with_cache(model: torch.nn.Module, held: object) -> dict[str, Any]:
    """Return the keyword argument that passes the cache `held` to `model`: `{name: held}`.

    The name depends on the version of transformers: 5.24 renamed `past_key_values` to `cache`.
    """
    return {_cache_name(type(model).forward): held}


@cache
def _cache_name(forward: Callable[..., Any]) -> str:
    return "cache" if "cache" in signature(forward).parameters else "past_key_values"


def causal_attention(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float, mask: PromptMask = CAUSAL
) -> torch.Tensor:
    """Compute attention of the last queries over all keys that `mask` allows, without materialising the weights.

    `queries`: (batch, num_heads, q, d), the last q of n tokens; `keys`, `values`: (batch, num_kv_heads, n, d). Returns
    (batch, q, num_heads, d).
    """
    q, n = queries.shape[2], keys.shape[2]
    grouped = queries.shape[1] != keys.shape[1]
    if q == n and not mask.spans and (mask.window is None or mask.window >= n):
        output = scaled_dot_product_attention(queries, keys, values, is_causal=q > 1, scale=scaling, enable_gqa=grouped)
        return output.transpose(1, 2)
    # CUDA has no fused kernel for a mask with groups, and attention would hold all its weights.
    on_cuda, group = queries.device.type == "cuda", queries.shape[1] // keys.shape[1]
    parts = []
    for start in range(n - q, n, MASKED_ROWS):
        end = min(start + MASKED_ROWS, n)
        first, last = mask.reach(start, end)
        places = torch.arange(first, last, device=queries.device)
        visible = mask.visible(torch.arange(start, end, device=queries.device), places)
        own = queries[:, :, start - (n - q) : end - (n - q)]
        seen_keys, seen_values = keys[:, :, first:last], values[:, :, first:last]
        if grouped and on_cuda:
            seen_keys, seen_values = (of.repeat_interleave(group, dim=1) for of in (seen_keys, seen_values))
        parts.append(
            scaled_dot_product_attention(
                own, seen_keys, seen_values, attn_mask=visible, scale=scaling, enable_gqa=grouped and not on_cuda
            )
        )
    return torch.cat(parts, dim=2).transpose(1, 2)
