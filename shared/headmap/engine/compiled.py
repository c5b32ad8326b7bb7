"""A decode step whose layers torch compiles: fewer kernels, and products of one row that read weights at full speed.

All layers share one compiled function, so compiling takes seconds instead of minutes. The compiler treats attention as
one opaque operation, which gets the step's cache from a context variable. The compiled text model shares its weights
with the loaded model, and the loaded model does not change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from copy import copy
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn

from headmap.kvcache.shape import CacheShape
from headmap.kvcache.transformers.decode import DecodeCache, StepCache

_STEP: ContextVar[DecodeCache] = ContextVar("step")

# The first setting makes a layer's number a variable; otherwise every layer would be compiled again. The second allows
# more sizes and models in one process than the default.
_DYNAMO: dict[str, Any] = {"allow_unspec_int_on_nn_module": True, "recompile_limit": 128}
# Products of one row become reductions, which are fused with what is before and after them.
_ONE_ROW: dict[str, Any] = {"coordinate_descent_tuning": True, "max_autotune_pointwise": True}


@torch.library.custom_op("headmap::decode_attention", mutates_args=())
def _attention(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, scaling: float
) -> torch.Tensor:
    """Attention of the running step. It writes to the pool, which no compiled code reads."""
    return _STEP.get().attend(layer_idx, queries, keys, values, scaling)


@_attention.register_fake
def _(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, scaling: float) -> torch.Tensor:
    del keys, values, layer_idx, scaling
    return torch.empty_like(queries)


def compiled_text(text_model: nn.Module, shape: CacheShape) -> nn.Module:
    """A twin of `text_model` for decode steps, with the same weights. Run it within `running`.

    Raises ValueError if the model's layers are not in a list of that length.
    """
    lists = [
        (name, part)
        for name, part in text_model.named_children()
        if isinstance(part, nn.ModuleList) and len(part) == shape.num_layers
    ]
    if len(lists) != 1:
        raise ValueError(f"{type(text_model).__name__} has {len(lists)} lists of {shape.num_layers} layers")
    ((name, layers),) = lists
    compiled = nn.ModuleList(_Layer(layer, shape.window_of(layer_idx)) for layer_idx, layer in enumerate(layers))
    twin = copy(text_model)
    twin._modules = {**text_model._modules, name: compiled}
    return twin


@contextmanager
def running(step: DecodeCache) -> Iterator[object]:
    """Make `step` the running step, and yield the cache to pass to the compiled text model."""
    token = _STEP.set(step)
    try:
        with torch._dynamo.config.patch(_DYNAMO):
            yield _LayerCache(None)
    finally:
        _STEP.reset(token)


class _Layer(nn.Module):
    """A decoder layer that runs compiled. `window`: its sliding window."""

    def __init__(self, layer: nn.Module, window: int | None) -> None:
        super().__init__()
        self.layer, self.cache = layer, _LayerCache(window)

    def forward(self, hidden: torch.Tensor, **kwargs: Any) -> Any:
        own = {name: self.cache if isinstance(value, _LayerCache) else value for name, value in kwargs.items()}
        return compiled(one_row=len(hidden) == 1)(self.layer, hidden, own)

    def __getattr__(self, name: str) -> Any:
        """Pass on attributes of the layer, such as its kind of attention, which the model's own loop reads."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("layer"), name)


@dataclass(frozen=True)
class _LayerCache(StepCache):
    """The cache that compiled code sees. It holds nothing that differs between layers, or each would be compiled."""

    window: int | None

    def window_of(self, layer_idx: int) -> int | None:
        return self.window

    def attend(
        self, layer_idx: int, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        return _attention(queries.contiguous(), keys.contiguous(), values.contiguous(), layer_idx, scaling)


def _run(layer: nn.Module, hidden: torch.Tensor, kwargs: Mapping[str, Any]) -> Any:
    return layer(hidden, **kwargs)


@cache
def compiled(*, one_row: bool) -> Callable[[nn.Module, torch.Tensor, Mapping[str, Any]], Any]:
    """The compiled `_run`, made at its first use: the compiler takes a second to import."""
    return torch.compile(_run, fullgraph=True, **({"options": _ONE_ROW} if one_row else {"dynamic": True}))
