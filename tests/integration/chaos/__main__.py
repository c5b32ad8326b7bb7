"""`python -m tests.integration.chaos --faults 55 --seed 0`: says what it does, ends with figures, 1 where one is wrong.

Workers score made-up numbers that depend on the page alone, so that many jobs meet many faults; `--model` lets them
score the bundled model itself, which takes longer.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from headmap.settings import DEMO_MODEL, Settings
from tests.integration.chaos.cluster import Cluster
from tests.integration.chaos.run import Plan, run
from tests.integration.processes import Process, Worker
from tests.integration.servers import Postgres, Redis


def fake_worker(settings: Settings) -> Process:
    return Worker(settings, pool="prefork", pause=0.1, model=DEMO_MODEL)


def real_worker(settings: Settings) -> Process:
    return Process(settings, "worker", ["services.scoring.worker", "--pool", "prefork"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=55)
    parser.add_argument("--seed", type=int, default=0, help="of the order of faults and of whom they meet")
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--model", action="store_true", help="score the bundled model instead of made-up numbers")
    parser.add_argument("--logs", type=Path, help="leave every process's log in this folder")
    parser.add_argument("--json", type=Path, help="write the figures there")
    arguments = parser.parse_args()
    plan = Plan(arguments.faults, arguments.seed)
    lease_seconds = 3.0
    if arguments.model:
        plan = Plan(arguments.faults, arguments.seed, pages=8, seeds=2, together=2, between=(0.0, 4.0))
        lease_seconds = 6.0
    postgres, redis = Postgres(), Redis()
    folder = tempfile.TemporaryDirectory(prefix="headmap-chaos-")
    try:
        for server in (postgres, redis):
            server.start()
        settings = Settings(
            data_dir=arguments.logs or Path(folder.name),
            database_url=postgres.create("chaos"),
            broker_url=redis.url,
            shard_pages=2 if arguments.model else 4,
            lease_seconds=lease_seconds,
            sweep_seconds=0.5,
            retry_seconds=0.2,
        )
        start_worker = real_worker if arguments.model else fake_worker
        cluster = Cluster(settings, postgres, redis, workers=arguments.workers, start_worker=start_worker)
        began = time.monotonic()
        try:
            report = run(cluster, plan, lambda line: print(line, flush=True))
        finally:
            cluster.end()
    finally:
        redis.remove()
        postgres.remove()
        folder.cleanup()
    figures = {"scorer": DEMO_MODEL if arguments.model else "made-up", "workers": arguments.workers, **asdict(report)}
    text = json.dumps({**figures, "seconds_in_all": round(time.monotonic() - began, 1)}, indent=2)
    print(text)
    if arguments.json is not None:
        arguments.json.write_text(text + "\n")
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
