"""How long the fold of the largest job takes, and what it keeps in memory, on SQLite and on PostgreSQL.

    python -m benchmarks.fold [--shards 12500] [--json benchmarks/results/fold.json]

The job has 100,000 pages in shards of 8, and a model of 32 layers x 32 heads. The fold runs as in a worker, in a
process of its own without torch. Meanwhile another process takes the job's lock again and again: its longest wait is
told too. Ends with 1 if a bar is missed. Needs the repository with its tests, which start PostgreSQL.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import insert, select, update

from headmap.jobs.runner import run_shard
from headmap.jobs.work import ShardScorer
from headmap.models import ModelInfo
from headmap.page_sums import PageSums
from headmap.registry.job_params import JobParams
from headmap.registry.jobs import add_job, get_job, lock_job, queue_fold
from headmap.registry.migrations import migrate
from headmap.registry.session import Database, open_database
from headmap.registry.tables import FOLD, Job, JobState, Shard, ShardState, StoredResult
from headmap.settings import Settings

SHARDS, SHARD_PAGES, LAYERS, HEADS = 12_500, 8, 32, 32
BARS = {"seconds": 10.0, "peak_mb": 300.0}
_AT_ONCE = 250


def fill(database: Database, shards: int) -> str:
    """Write a job whose shards are all done, as if workers had scored random pages. Returns its id."""
    info = ModelInfo("fold/32x32", Path(), "r", "Random", "llava", LAYERS, HEADS, HEADS, 4096)
    params = JobParams(dataset="synthetic", pages=shards * SHARD_PAGES, rule="aligned", seed=0, max_new_tokens=64)
    rng = np.random.default_rng(0)
    with database.write() as session:
        job_id = add_job(session, info, params, shard_pages=SHARD_PAGES, announce=0)[0]
        session.execute(update(Shard).where(Shard.job_id == job_id).values(state=ShardState.DONE))
        done = {"state": JobState.RUNNING, "pages_done": params.pages}
        session.execute(update(Job).where(Job.id == job_id).values(**done))
    for start in range(0, shards, _AT_ONCE):
        rows = []
        for number in range(start, min(start + _AT_ONCE, shards)):
            values = rng.random((4, LAYERS, HEADS))
            sums = PageSums(SHARD_PAGES, 80, 70, 60, values[:2], values[2], values[3])
            rows.append({"job_id": job_id, "number": number, "body": sums.to_bytes()})
        with database.write() as session:
            session.execute(insert(StoredResult), rows)
    with database.write() as session:
        queue_fold(session, session.get_one(Job, job_id))
    return job_id


def fold(settings: Settings, job_id: str) -> dict[str, float]:
    """Fold in this process, and return its seconds and its peak memory in MB."""

    def no_scorer() -> ShardScorer:
        raise RuntimeError("a fold needs no model")

    database = open_database(settings)
    started = time.perf_counter()
    outcome = run_shard(database, settings, no_scorer, job_id, FOLD, owner="benchmark")
    seconds = time.perf_counter() - started
    database.close()
    if outcome != "done":
        raise RuntimeError(f"the fold ended as {outcome}")
    return {"seconds": seconds, "peak_mb": _peak_bytes() / 1e6}


def _peak_bytes() -> int:
    """This process's; getrusage would count the process that started it as well."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def measure(settings: Settings, shards: int) -> dict[str, Any]:
    """Fold in another process. `longest_wait_seconds`: for the job's lock, in this process meanwhile."""
    migrate(settings)
    database = open_database(settings)
    job_id = fill(database, shards)
    ended = threading.Event()
    waits = [0.0]

    def take_the_lock() -> None:
        while not ended.wait(0.01):
            started = time.perf_counter()
            with database.write() as session:
                lock_job(session, job_id)
            waits.append(time.perf_counter() - started)

    other = threading.Thread(target=take_the_lock)
    other.start()
    try:
        child = [sys.executable, "-m", "benchmarks.fold", "--child", job_id, settings.model_dump_json()]
        told = subprocess.run(child, check=True, stdout=subprocess.PIPE, text=True).stdout
    finally:
        ended.set()
        other.join()
    with database.read() as session:
        job, left = get_job(session, job_id), session.scalar(select(StoredResult.number).limit(1))
    database.close()
    if job.map_id is None or left is not None:
        raise RuntimeError(f"the job ended as {job.state} ({job.error}), results left: {left is not None}")
    found: dict[str, float] = json.loads(told)
    return {**found, "longest_wait_seconds": max(waits)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=SHARDS)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(fold(Settings.model_validate_json(arguments.child[1]), arguments.child[0])))
        return 0
    from benchmarks.report import Recorder  # imports torch, which the child must not
    from tests.integration.servers import Postgres

    record = Recorder(arguments.json, print)
    record.begin("fold", {"shards": arguments.shards, "layers": LAYERS, "heads": HEADS, "bars": BARS})
    server = Postgres()
    server.start()
    try:
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder)
            for name, url in (("sqlite", None), ("postgresql", server.create("fold"))):
                row = measure(Settings(data_dir=data / name, database_url=url), arguments.shards)
                holds = all(row[figure] <= bar for figure, bar in BARS.items())
                told = ", ".join(f"{figure} {value:.3g}" for figure, value in row.items())
                record.add({"registry": name, **row, "holds": holds}, f"{name}: {told}{'' if holds else '  MISSED'}")
    finally:
        server.remove()
    return int(not all(row["holds"] for row in record.end()["rows"]))


if __name__ == "__main__":
    sys.exit(main())
