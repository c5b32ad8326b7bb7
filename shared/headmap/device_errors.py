"""Running out of memory, as devices and allocators tell it, and letting go of what the failed work held."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from headmap.errors import OutOfMemory

# Not all of them have a type of their own: the CPU's allocator, cuBLAS and the driver raise RuntimeError.
_WORDS = ("can't allocate memory", "not enough memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)


@contextmanager
def told_as_out_of_memory() -> Iterator[None]:
    """Raises OutOfMemory in the place of whatever says so; other errors pass. Also a decorator."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory("the model ran out of memory") from error


def let_go(error: BaseException) -> None:
    """Clear the variables of the calls that an error ended, which keep their tensors; its traceback still prints."""
    link: BaseException | None = error
    while link is not None:
        traceback.clear_frames(link.__traceback__)
        link = link.__cause__ or link.__context__
