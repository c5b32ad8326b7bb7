"""How long a sweep takes with a million queued shards: whoever sweeps asks the registry every few seconds.

    python -m benchmarks.sweep [--shards 1000000] [--json benchmarks/results/sweep.json]

The shards are of many small jobs or of few large ones, of two models. In `full` the broker's queues are full, in
`refill` a tenth of each was taken since the last sweep, in `lost` the broker has lost its messages. Sending messages is
not counted. `cpu_ms` is the work of the sweeper and of its PostgreSQL process in one sweep, without waiting for a busy
machine; `median_ms` is what it took. PostgreSQL explains each statement of a sweep: `scans` counts those that read the
whole table of shards. Ends with 1 if a bar is missed. Needs the repository with its tests, which start PostgreSQL.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from sqlalchemy import event, text

from benchmarks.report import Recorder
from headmap.jobs.queues import JobQueue
from headmap.jobs.submit import ANNOUNCE
from headmap.jobs.sweeper import sweep
from headmap.models import ModelInfo
from headmap.registry.job_params import JobParams
from headmap.registry.jobs import add_job
from headmap.registry.migrations import migrate
from headmap.registry.session import Database, open_database
from headmap.settings import Settings
from tests.integration.servers import Postgres

BARS: Mapping[str, Mapping[str, float]] = {
    "full": {"cpu_ms": 20.0, "scans": 0},
    "refill": {"cpu_ms": 20.0, "scans": 0},
    "lost": {"scans": 0},
}
"""By case, on PostgreSQL. A broker that has lost all is filled up with a thousand messages, which takes longer."""

MODELS = 2
LAYOUTS = {"small jobs": 1000, "large jobs": 8}
"""By name, how many jobs share the shards."""
CASES = {"full": ANNOUNCE, "refill": ANNOUNCE - ANNOUNCE // 10, "lost": 0}
"""How many messages each of the broker's queues holds, by the queue's name."""
_SWEEPS = 15

_MORE_SHARDS = """
    INSERT INTO shards (job_id, number, first, count, state, attempt, failures, due_at, enqueued_at, pages_done)
    WITH RECURSIVE numbers(number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM numbers WHERE number < :last)
    SELECT s.job_id, n.number, n.number, 1, 'queued', 0, 0, s.due_at, CASE WHEN n.number < :first THEN s.due_at END, 0
    FROM shards s, numbers n
"""


class FilledBroker:
    """Holds `messages` messages in each queue, whatever it is sent."""

    def __init__(self, messages: int) -> None:
        self._messages = messages

    def enqueue(self, queue: JobQueue, shards: Iterable[tuple[str, int]]) -> None:
        pass

    def waiting(self, queues: Iterable[JobQueue]) -> dict[JobQueue, int]:
        return {queue: self._messages if queue.device is None else 0 for queue in queues}


def fill(database: Database, shards: int, jobs: int) -> None:
    """Write open jobs with `shards` queued shards in all, of which each job's first ones count as enqueued."""
    params = JobParams(dataset="synthetic", pages=1, rule="aligned", seed=0, max_new_tokens=64)
    with database.write() as session:
        for number in range(jobs):
            info = ModelInfo(f"sweep/{number % MODELS}", Path(), "r", "Random", "llava", 2, 2, 2, 4096)
            add_job(session, info, params, shard_pages=1, announce=1, force=True)
    with database.engine.connect() as connection:  # beyond the time limit of a session's statements
        if connection.dialect.name == "postgresql":
            connection.execute(text("SET statement_timeout = 0"))
        connection.execute(text(_MORE_SHARDS), {"last": shards // jobs - 1, "first": ANNOUNCE})
        connection.commit()
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE"))


def measure(database: Database, settings: Settings, messages: int) -> dict[str, Any]:
    """Milliseconds of a sweep, the shards that it announces, and the statements that scan."""
    broker = FilledBroker(messages)
    sweep(database, broker, settings)
    took, announced, worked = [], 0, _cpu_seconds(database)
    for _ in range(_SWEEPS):
        started = time.perf_counter()
        announced = sweep(database, broker, settings)
        took.append(1e3 * (time.perf_counter() - started))
    cpu_ms = 1e3 * (_cpu_seconds(database) - worked) / _SWEEPS
    row: dict[str, Any] = {"cpu_ms": cpu_ms, "median_ms": median(took), "announced": announced}
    if database.engine.dialect.name == "postgresql":
        row["scans"] = scans(database, lambda: sweep(database, broker, settings))
    return row


def _cpu_seconds(database: Database) -> float:
    """Measure this process, and the PostgreSQL process that serves its one connection."""
    ours = time.process_time()
    if database.engine.dialect.name != "postgresql":
        return ours
    with database.engine.connect() as connection:
        process = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
    nanoseconds = Path(f"/proc/{process}/schedstat").read_text(encoding="ascii").split()[0]
    return ours + int(nanoseconds) / 1e9


def scans(database: Database, work: Callable[[], object]) -> int:
    """How many of the statements that `work` runs read every row of the shards, by PostgreSQL's own plans."""
    seen: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if "shards" in statement:
            seen.append((statement, parameters))

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        work()
    finally:
        event.remove(database.engine, "before_cursor_execute", note)
    found = 0
    with database.engine.connect() as connection:
        for statement, parameters in seen:
            plan = connection.exec_driver_sql(f"EXPLAIN {statement}", parameters).scalars().all()
            if any("Seq Scan on shards" in line for line in plan):
                found += 1
                print(statement, *plan, sep="\n")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    record = Recorder(arguments.json, print)
    record.begin("sweep", {"shards": arguments.shards, "models": MODELS, "sweeps": _SWEEPS, "bars": BARS})
    server = Postgres()
    server.start()
    try:
        for layout, jobs in LAYOUTS.items():
            with tempfile.TemporaryDirectory() as folder:
                name = layout.replace(" ", "_")
                for registry, url in (("postgresql", server.create(name)), ("sqlite", None)):
                    settings = Settings(data_dir=Path(folder) / registry, database_url=url)
                    migrate(settings)
                    database = open_database(settings)
                    fill(database, arguments.shards, jobs)
                    for case, messages in CASES.items():
                        row = measure(database, settings, messages)
                        bars = BARS[case] if registry == "postgresql" else {}
                        holds = all(row[figure] <= bar for figure, bar in bars.items())
                        told = ", ".join(f"{figure} {value:.4g}" for figure, value in row.items())
                        line = f"{registry}, {layout}, {case}: {told}{'' if holds else '  MISSED'}"
                        record.add({"registry": registry, "jobs": jobs, "case": case, **row, "holds": holds}, line)
                    database.close()
    finally:
        server.remove()
    return int(not all(row["holds"] for row in record.end()["rows"]))


if __name__ == "__main__":
    sys.exit(main())
