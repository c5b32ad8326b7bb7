"""How much memory there is for keys and values where the settings do not say, and memory that goes back once freed."""

from __future__ import annotations

import ctypes
import os
import platform
from pathlib import Path

import torch

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_LARGE = 1 << 20


def spare_memory(device: torch.device) -> int:
    """KV memory when none is set: most of a GPU's free memory, a quarter of the machine's or container's otherwise."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free * 0.8)
    machine = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([machine, *_container_limit()]) // 4


def _container_limit() -> list[int]:
    """The memory limit of the control group (version 2), where there is one."""
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return []
    return [int(limit)] if limit.isdigit() else []


def give_back_freed_memory() -> None:
    """Have glibc give every buffer of 1 MiB or more back to the system as soon as it is freed.

    By itself it keeps such buffers once it has seen some freed, and requests of many sizes leave holes between them:
    resident memory creeps up over thousands of requests. Does nothing under another C library.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE)
        libc.mallopt(_M_TRIM_THRESHOLD, _LARGE)
