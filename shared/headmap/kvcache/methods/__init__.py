"""Cache methods by name. Each method has its own file."""

from __future__ import annotations

from headmap.errors import UnknownMethod
from headmap.kvcache.methods.adakv import AdaKV
from headmap.kvcache.methods.base import Method
from headmap.kvcache.methods.full import Full
from headmap.kvcache.methods.pyramidkv import PyramidKV
from headmap.kvcache.methods.random_scores import RandomScores
from headmap.kvcache.methods.snapkv import SnapKV
from headmap.kvcache.methods.sparsemm import SparseMM

METHODS: dict[str, type[Method]] = {
    method.name: method for method in (Full, SparseMM, SnapKV, PyramidKV, AdaKV, RandomScores)
}


def get_method(name: str) -> Method:
    """Return the method `name`. Raises UnknownMethod, which lists the known methods."""
    if name not in METHODS:
        raise UnknownMethod(f"kv.method: {name!r} is not one of {', '.join(METHODS)}", param="kv.method")
    return METHODS[name]()


__all__ = ["METHODS", "Method", "get_method"]
