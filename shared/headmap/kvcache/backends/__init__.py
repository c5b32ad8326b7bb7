"""Decode attention over the pool: one module for each backend, `base.py` has the contract."""

from __future__ import annotations

from headmap.kvcache.backends.base import DecodeBackend
from headmap.kvcache.backends.choice import BACKENDS, make_backend

__all__ = ["BACKENDS", "DecodeBackend", "make_backend"]
