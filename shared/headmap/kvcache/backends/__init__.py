"""Decode attention over a layer's blocks: one module per backend, all with the signature of `blocked.attend`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import cast

import torch

from headmap.kvcache.store import LayerStore

log = logging.getLogger(__name__)

Attend = Callable[[torch.Tensor, LayerStore, float], torch.Tensor]

AUTO = "auto"
BACKENDS = {"torch": "blocked", "native": "native", "triton": "triton_blocks"}


def get_backend(name: str, device: torch.device) -> Attend:
    """The `attend` function of a backend, imported only when asked for: a CPU build of torch brings no Triton.

    "auto" is native on a CPU where it can be compiled, else torch. Raises ValueError for an unknown name and for native
    elsewhere than on a CPU, ImportError where Triton is missing or the native one cannot be compiled.
    """
    if name == AUTO:
        return _native_or_torch() if device.type == "cpu" else _imported("torch")
    if name not in BACKENDS:
        raise ValueError(f"backend {name!r} is none of {', '.join((AUTO, *BACKENDS))}")
    if name == "native" and device.type != "cpu":
        raise ValueError(f"backend native runs on a CPU, not on {device}")
    return _imported(name)


@cache
def _native_or_torch() -> Attend:
    try:
        return _imported("native")
    except ImportError as error:
        log.warning("decode attention in torch operations, at about half the speed: %s", error)
        return _imported("torch")


def _imported(name: str) -> Attend:
    return cast(Attend, import_module(f"{__name__}.{BACKENDS[name]}").attend)
