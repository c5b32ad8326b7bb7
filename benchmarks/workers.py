"""How long a scoring job takes one worker and two: real worker processes, a thread each, on one registry.

Both clusters run side by side, the idle one waiting, and get jobs in turn; so a drift of the machine's speed meets
both.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any, Self

from headmap.jobs.celery_app import create_celery
from headmap.jobs.celery_broker import CeleryBroker
from headmap.jobs.submit import announce, write_job
from headmap.models import find_model
from headmap.registry.job_params import JobParams
from headmap.registry.jobs import get_job
from headmap.registry.migrations import migrate
from headmap.registry.session import open_database
from headmap.settings import DEMO_MODEL, Settings

ROOT = Path(__file__).parents[1]
SHARD_DONE = "shard done"
"""What a worker's log says of each shard."""


def workers_rows(
    pages: int, *, counts: Sequence[int] = (1, 2), rounds: int = 3, progress: Callable[[str], None] = lambda line: None
) -> list[dict[str, Any]]:
    """Median seconds of a job of `pages` pages by each number of workers, models loaded beforehand."""
    seconds: dict[int, list[float]] = {count: [] for count in counts}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        clusters = [stack.enter_context(Cluster(Path(folder) / str(count), count)) for count in counts]
        for number in range(1, rounds + 1):
            for cluster in clusters:
                seconds[cluster.count].append(cluster.job(seed=number, pages=pages))
                progress(f"{cluster.count} workers: {seconds[cluster.count][-1]:.1f} s for {pages} pages")
    first = median(seconds[counts[0]])
    return [
        {"workers": count, "pages": pages, "seconds": median(took), "share": median(took) / first}
        for count, took in seconds.items()
    ]


class Cluster:
    """A registry, a broker of folders and some workers, until the block ends."""

    def __init__(self, folder: Path, count: int) -> None:
        self.count = count
        self._settings = Settings(data_dir=folder, shard_pages=4)
        self._logs = [folder / f"worker-{number}.log" for number in range(count)]

    def __enter__(self) -> Self:
        self._settings.data_dir.mkdir(parents=True)
        migrate(self._settings)
        self._database = open_database(self._settings)
        self._workers = [self._start(log) for log in self._logs]
        seed = 1_000_000
        while not all(SHARD_DONE in log.read_text(encoding="utf-8") for log in self._logs):  # each has loaded its model
            self.job(seed, pages=8 * self.count)
            seed += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.terminate()
        for worker in self._workers:
            worker.wait(30)
        self._database.close()

    def _start(self, log: Path) -> subprocess.Popen[bytes]:
        environment = {
            "HEADMAP_DATA_DIR": str(self._settings.data_dir), "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(ROOT / "shared"), str(ROOT)]),
        }  # fmt: skip
        with log.open("wb") as out:
            return subprocess.Popen(
                [sys.executable, "-m", "services.embedded.worker"],  # ends with this process, however that ends
                env={**os.environ, **environment}, cwd=ROOT, stdin=subprocess.PIPE, stdout=out, stderr=out,
            )  # fmt: skip

    def job(self, seed: int, pages: int) -> float:
        """Seconds from asking for a job to its map."""
        params = JobParams(dataset="synthetic", pages=pages, rule="paper", seed=seed, max_new_tokens=256)
        began = time.perf_counter()
        info, broker = find_model(DEMO_MODEL, self._settings), CeleryBroker(create_celery(self._settings))
        job, shards, _ = write_job(self._database, self._settings, info, params)
        announce(broker, job, shards)
        while not job.state.ended:
            if any(worker.poll() is not None for worker in self._workers):
                raise RuntimeError(f"a worker ended: {self._logs[0].read_text(encoding='utf-8')[-2000:]}")
            time.sleep(0.05)
            with self._database.read() as session:
                job = get_job(session, job.id)
        if job.map_id is None:
            raise RuntimeError(f"the job failed: {job.error}")
        return time.perf_counter() - began
