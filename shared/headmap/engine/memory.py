"""How much memory keys and values get by default, and how freed memory goes back to the system."""

from __future__ import annotations

import ctypes
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from headmap.devices import find_device

if TYPE_CHECKING:
    from headmap.settings import Settings

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_LARGE = 1 << 20


def spare_memory(device: torch.device) -> int:
    """Bytes for all models' KV when none are set: most of a GPU's free memory, else a quarter of the machine's or
    container's."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free * 0.8)
    machine = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([machine, *_container_limit()]) // 4


def share_of_each(settings: Settings, models: int) -> Settings:
    """The settings of each of a process's `models`: an even part of its memory for keys and values and for sessions.

    Call it when all weights are on the device, since it divides what they leave.
    """
    kv = settings.kv_memory_bytes or spare_memory(find_device(settings.device))
    shares = {"kv_memory_bytes": kv // models, "session_memory_bytes": settings.session_memory_bytes // models}
    return settings.model_copy(update=shares)


def _container_limit() -> list[int]:
    """The memory limit of the control group (version 2), where there is one."""
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8").strip()
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
