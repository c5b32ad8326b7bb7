"""Turn failures inside the engine into errors for callers, or end the engine."""

from __future__ import annotations

from headmap.device_errors import is_broken_device, is_out_of_memory, let_go
from headmap.errors import DeviceFailed, HeadmapError, OutOfMemory


def as_headmap_error(error: BaseException) -> HeadmapError:
    """Our own errors unchanged; others without their messages, which go to the log. No error keeps a tensor alive."""
    let_go(error)
    if is_broken_device(error):
        wrapped: HeadmapError = DeviceFailed("the device failed; this server ends and is started again")
    elif isinstance(error, HeadmapError):
        return error
    elif is_out_of_memory(error):
        wrapped = OutOfMemory("the model ran out of memory")
    else:
        wrapped = HeadmapError("the model failed on this request")
    wrapped.__cause__ = error
    return wrapped


def raise_if_broken(error: BaseException) -> None:
    """Raises DeviceFailed, which ends the engine, if the device will not work again in this process."""
    if isinstance(error, DeviceFailed):
        raise error
    if is_broken_device(error):
        raise DeviceFailed("the device failed; the server has to start again") from error
