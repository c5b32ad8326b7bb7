"""The device that a setting names, making it the calling thread's own, and returning memory to it."""

from __future__ import annotations

import ctypes
import gc

import torch

from headmap.errors import DeviceNotFound


def find_device(name: str) -> torch.device:
    """The device that HEADMAP_DEVICE names, a GPU always with its number; auto is the first GPU if there is one.

    Raises DeviceNotFound for a GPU that is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type != "cuda":
        return device
    count, index = torch.cuda.device_count(), device.index or 0
    if index >= count:
        raise DeviceNotFound(f"HEADMAP_DEVICE={name}: PyTorch {torch.__version__} sees {count} GPUs on this machine")
    return torch.device("cuda", index)


def use_device(device: torch.device) -> None:
    """Make `device` the calling thread's own; each thread begins with the first GPU, whatever others chose.

    Streams, captured graphs and kernels launched without a tensor use the thread's device.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)


def return_memory() -> None:
    """Return unused memory of this process to the system and to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc alone
    if trim is not None:
        trim(0)
