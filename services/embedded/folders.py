"""Where the processes of the embedded cluster meet, beside the registry and the broker."""

from __future__ import annotations

from pathlib import Path

from headmap.settings import Settings


def metrics_folder(settings: Settings) -> Path:
    """Where the worker counts and whence the web process tells; emptied when the cluster starts."""
    return settings.data_dir / "metrics"
