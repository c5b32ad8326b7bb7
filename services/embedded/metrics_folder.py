"""The metrics folder of the embedded cluster: the worker writes its counts there, the web process reads them."""

from __future__ import annotations

from pathlib import Path

from headmap.settings import Settings


def metrics_folder(settings: Settings) -> Path:
    """The folder, in the data directory. It is emptied when the cluster starts."""
    return settings.data_dir / "metrics"
