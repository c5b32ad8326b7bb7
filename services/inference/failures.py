"""What callers get to know of errors inside the engine."""

from __future__ import annotations

import torch

from headmap.errors import HeadmapError, OutOfMemory


def as_headmap_error(error: Exception) -> HeadmapError:
    """Errors of ours as they are; others without their words, which are the log's."""
    if isinstance(error, HeadmapError):
        return error
    out_of_memory = isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
    kind: type[HeadmapError] = OutOfMemory if out_of_memory else HeadmapError
    detail = "the model ran out of memory" if out_of_memory else "the model failed on this request"
    wrapped = kind(detail)
    wrapped.__cause__ = error
    return wrapped
