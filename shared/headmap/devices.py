"""The device that a setting names, and making it the calling thread's own."""

from __future__ import annotations

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
