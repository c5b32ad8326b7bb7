"""Recognise errors of exhausted memory and broken devices, and release what failed work held."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from headmap.errors import DeviceFailed, OutOfMemory

# Not all of these errors have their own type: the CPU's allocator, cuBLAS and the driver raise RuntimeError.
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
    """Whether `error`, or one of its causes, says that this process can no longer use the device.

    Such an error ends the process, whichever request met it. Exhausted memory, a call that the device refused and an
    error of the model's own code are none.
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
    """Raises OutOfMemory in place of any error that says so; other errors pass. Also a decorator."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory("the model ran out of memory") from error


@contextmanager
def told_as_device_failed() -> Iterator[None]:
    """Raises DeviceFailed in place of an error of a broken device; other errors pass."""
    try:
        yield
    except RuntimeError as error:
        if is_broken_device(error):
            raise DeviceFailed(f"the worker's device failed: {str(error).partition(chr(10))[0]}") from error
        raise


def let_go(error: BaseException) -> None:
    """Clear the variables of the calls that an error ended: they keep tensors. Its traceback still prints."""
    for link in _chain(error):
        traceback.clear_frames(link.__traceback__)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, its cause, the cause's cause, and so on."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__
