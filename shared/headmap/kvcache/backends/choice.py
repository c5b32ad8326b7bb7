"""Which backend serves a pool. They are imported only when asked for: a CPU build of torch brings no Triton."""

from __future__ import annotations

import logging
from importlib import import_module

from headmap.kvcache.backends.base import DecodeBackend
from headmap.kvcache.pool.pool import Pool

log = logging.getLogger(__name__)

AUTO = "auto"
BACKENDS = {"triton": "triton_pages:TritonBackend", "native": "native:NativeBackend", "torch": "torch_ops:TorchBackend"}


def make_backend(name: str, pool: Pool) -> DecodeBackend:
    """The backend called `name` for a pool; "auto" is the first of BACKENDS that can serve it.

    Raises ValueError for an unknown name and ImportError where the backend cannot serve this pool on this machine.
    """
    if name != AUTO:
        return _made(name, pool)
    for candidate in BACKENDS:
        try:
            return _made(candidate, pool)
        except ImportError as error:
            log.debug("decode backend %s: %s", candidate, error)
    raise ImportError("no decode backend can serve this pool")


def _made(name: str, pool: Pool) -> DecodeBackend:
    if name not in BACKENDS:
        raise ValueError(f"backend {name!r} is none of {', '.join((AUTO, *BACKENDS))}")
    module, _, kind = BACKENDS[name].partition(":")
    backend: type[DecodeBackend] = getattr(import_module(f"{__package__}.{module}"), kind)
    if reason := backend.missing(pool):
        raise ImportError(f"{name}: {reason}")
    return backend(pool)
