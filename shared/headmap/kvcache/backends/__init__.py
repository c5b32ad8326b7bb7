"""Decode attention over the pool. Each backend is one module; `base.py` defines their interface."""

from __future__ import annotations

from headmap.kvcache.backends.base import DecodeBackend
from headmap.kvcache.backends.choice import BACKENDS, make_backend

__all__ = ["BACKENDS", "DecodeBackend", "make_backend"]
