"""Decode attention over a layer's blocks: one module per backend, all with the signature of `blocked.attend`."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import cast

import torch

from headmap.kvcache.store import LayerStore

Attend = Callable[[torch.Tensor, LayerStore, float], torch.Tensor]

BACKENDS = {"torch": "blocked", "triton": "triton_blocks"}


def get_backend(name: str) -> Attend:
    """The `attend` function of a backend, imported only when asked for: a CPU build of torch brings no Triton.

    Raises ValueError for an unknown name and ImportError where Triton is missing.
    """
    if name not in BACKENDS:
        raise ValueError(f"backend {name!r} is none of {', '.join(BACKENDS)}")
    return cast(Attend, import_module(f"{__name__}.{BACKENDS[name]}").attend)
