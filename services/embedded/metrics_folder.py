"""The folder in which the embedded cluster's worker counts and from which its web process tells."""

from __future__ import annotations

from pathlib import Path

from headmap.settings import Settings


def metrics_folder(settings: Settings) -> Path:
    """Under the data directory; emptied when the cluster starts."""
    return settings.data_dir / "metrics"
