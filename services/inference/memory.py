"""How much memory there is for keys and values where the settings do not say."""

from __future__ import annotations

import os
from pathlib import Path

import torch


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
