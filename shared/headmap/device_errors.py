"""What devices and allocators say when memory runs out or they break, and letting go of what failed work held."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from headmap.errors import OutOfMemory

# Not all of them have a type of their own: the CPU's allocator, cuBLAS and the driver raise RuntimeError.
_OUT_OF_MEMORY = re.compile("can't allocate memory|not enough memory|out of memory|_STATUS_ALLOC_FAILED")

_DEVICE = re.compile(
    r"\b(CUDA|HIP|XPU|MPS|cuDNN|MIOpen|cublas|cusolver|NCCL|RCCL)( driver| runtime| backend)? error\b"
    r"|\b(CUBLAS|CUDNN|CUSOLVER|CUSPARSE|HIPBLAS|ROCBLAS)_STATUS_"
    r"|\bcuda(Error[A-Z]| failure\b)"
    r"|\bTriton Error \["
    r"|\bdevice-side assert",
    re.IGNORECASE,
)
# The device refuses a call and is as sound as before. All else may be sticky: every later call fails, too ("this leaves
# the process in an inconsistent state", CUDA Runtime API, cudaError_t).
_REFUSED_CALL = re.compile(
    "invalid argument|invalid configuration argument|too many resources requested|capturing|during capture"
    "|_STATUS_(INVALID_VALUE|NOT_SUPPORTED|BAD_PARAM)",
    re.IGNORECASE,
)


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None


def is_broken_device(error: BaseException) -> bool:
    """Whether `error`, or one that it came of, says that the device can no longer be used by this process.

    Such an error is answered by ending the process, whoever it hit. Neither memory that ran out nor a call that the
    device refused is one, nor an error of the model's own code.
    """
    return any(_tells_of_broken_device(link) for link in _chain(error))


def _tells_of_broken_device(error: BaseException) -> bool:
    if not isinstance(error, RuntimeError) or is_out_of_memory(error):
        return False
    words = str(error)
    of_device = isinstance(error, torch.AcceleratorError) or _DEVICE.search(words) is not None
    return of_device and _REFUSED_CALL.search(words.partition("\n")[0]) is None  # below it: advice, a stack of C++


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
    for link in _chain(error):
        traceback.clear_frames(link.__traceback__)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, the one it came of, and so on."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__
