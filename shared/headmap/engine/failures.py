"""What callers get to know of errors inside the engine."""

from __future__ import annotations

from headmap.device_errors import is_out_of_memory, let_go
from headmap.errors import HeadmapError, OutOfMemory


def as_headmap_error(error: Exception) -> HeadmapError:
    """Errors of ours as they are; others without their words, which are the log's. None holds a tensor any more."""
    let_go(error)
    if isinstance(error, HeadmapError):
        return error
    out_of_memory = is_out_of_memory(error)
    kind: type[HeadmapError] = OutOfMemory if out_of_memory else HeadmapError
    detail = "the model ran out of memory" if out_of_memory else "the model failed on this request"
    wrapped = kind(detail)
    wrapped.__cause__ = error
    return wrapped
