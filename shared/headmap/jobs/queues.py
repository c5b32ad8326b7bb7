"""The broker's queues: one for each model at its revision, and one more for each kind of device."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from headmap.settings import Settings

PREFIX = "headmap-scoring"

_GPU_FILES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
"""Of the drivers of NVIDIA, of WSL and of AMD: without any, torch finds no GPU."""

_ASK_TORCH = "import torch; print(torch.cuda.is_available())"


class JobQueue(NamedTuple):
    """Where a job's shards go: to any worker with the model, or with a device of the kind the job began on."""

    model: str
    revision: str
    device: str | None = None

    @property
    def name(self) -> str:
        """`headmap-scoring.MODEL.HASH`, of letters, digits, `_`, `-` and dots; with `.DEVICE` for one kind of device.

        The hash tells models apart whose names have the same letters.
        """
        readable = re.sub(r"\W+", "-", self.model, flags=re.ASCII)[-40:].strip("-")
        digest = hashlib.sha256(f"{self.model}\0{self.revision}".encode()).hexdigest()[:12]
        name = f"{PREFIX}.{readable}.{digest}"
        return name if self.device is None else f"{name}.{self.device}"

    @property
    def any_device(self) -> JobQueue:
        return self._replace(device=None)


def model_part(queue: str) -> str:
    """Return the part of a queue's name that its model's other queues have, too."""
    return ".".join(queue.split(".")[:3])


def device_kind(settings: Settings) -> str:
    """Return the kind of device that models run on here: cpu or cuda.

    Torch alone knows which device `auto` is. A process of its own asks it, because a worker that has imported torch
    cannot fork children that use a GPU.
    """
    if settings.device != "auto":
        return settings.device.partition(":")[0]
    if not any(Path(file).exists() for file in _GPU_FILES):
        return "cpu"
    found = subprocess.run([sys.executable, "-c", _ASK_TORCH], capture_output=True, text=True, check=False)  # noqa: S603  our own words
    return "cuda" if found.stdout.strip() == "True" else "cpu"
