"""The scoring API as a process of its own, looked at while it is attacked."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from headmap.registry.migrations import migrate
from headmap.settings import Settings
from tests.integration.processes import Api, wait_for

MOST_HEALTH_MS = 300.0
"""At p99. The one who looks shares the cores with the attacker, so this is more than the bar of a quiet machine."""


@dataclass
class Looks:
    """How /health/live answered, and how the process, without its children, grew."""

    took_ms: list[float] = field(default_factory=list)
    growth_mib: int = 0

    def share(self, share: float) -> float:
        ordered = sorted(self.took_ms)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0

    def told(self) -> str:
        return f"health p50 {self.share(0.5):.0f}, p99 {self.share(0.99):.0f} ms, +{self.growth_mib} MiB"

    def faults(self, *, most_growth_mib: int = 150) -> tuple[str, ...]:
        slow = [f"health took {self.share(0.99):.0f} ms at p99"] * (self.share(0.99) > MOST_HEALTH_MS)
        large = [f"grew by {self.growth_mib} MiB"] * (self.growth_mib > most_growth_mib)
        return (*slow, *large)


@contextmanager
def scoring_api(**values: Any) -> Iterator[Api]:
    """On an SQLite registry of its own; `values` are settings."""
    with tempfile.TemporaryDirectory(prefix="headmap-attack-") as folder:
        settings = Settings(data_dir=Path(folder) / "data", **values)
        migrate(settings)
        api = Api(settings)
        try:
            wait_for(lambda: lives(api.url), "the scoring API answers", seconds=120)
            yield api
        finally:
            api.end()


def lives(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/live", timeout=5, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


@contextmanager
def looked_at(api: Api) -> Iterator[Looks]:
    """Ask for its health every 10 ms."""
    looks, stop = Looks(), threading.Event()
    status = Path(f"/proc/{api._process.pid}/status")
    Path(f"/proc/{api._process.pid}/clear_refs").write_text("5")  # the peak starts again
    before = _mib(status, "VmRSS")

    def look() -> None:
        with httpx.Client(base_url=api.url, timeout=120, trust_env=False) as client:
            while not stop.wait(0.01):
                began = time.perf_counter()
                client.get("/health/live")
                looks.took_ms.append((time.perf_counter() - began) * 1000)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield looks
    finally:
        stop.set()
        thread.join()
        looks.growth_mib = _mib(status, "VmHWM") - before


def _mib(status: Path, name: str) -> int:
    return next(int(line.split()[1]) >> 10 for line in status.read_text().splitlines() if line.startswith(name))
