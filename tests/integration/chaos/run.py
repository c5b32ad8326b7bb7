"""One run: calm jobs first, then the same jobs under faults; afterwards every row of the registry is judged."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from headmap.registry.tables import Job, Map, Shard, StoredResult
from headmap.settings import DEMO_MODEL
from tests.integration.chaos.client import Asked, Client
from tests.integration.chaos.cluster import Cluster
from tests.integration.chaos.faults import order

_END_SECONDS = 180.0


@dataclass(frozen=True)
class Plan:
    """`pages` a job, `seeds` different jobs, `together` at a time.

    A fault comes once a shard was done since the one before, and then a random number of seconds out of `between`.
    """

    faults: int
    seed: int = 0
    pages: int = 48
    max_new_tokens: int = 64
    seeds: int = 3
    together: int = 3
    between: tuple[float, float] = (0.0, 1.0)


@dataclass
class Report:
    """What happened, in figures; `wrong` is empty when nothing was lost, doubled or changed."""

    seed: int
    faults: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    jobs: int = 0
    jobs_succeeded: int = 0
    maps: int = 0
    most_attempts_of_a_shard: int = 0
    attempts_dropped: int = 0
    requests_repeated: int = 0
    wrong: list[str] = field(default_factory=list)


def run(cluster: Cluster, plan: Plan, tell: Callable[[str], None]) -> Report:
    """Run `plan` on a fresh cluster. `tell` gets a line for each thing done."""
    rng = random.Random(plan.seed)
    report = Report(plan.seed)
    body = {"model": DEMO_MODEL, "pages": plan.pages, "max_new_tokens": plan.max_new_tokens}
    client = Client(cluster.api.url, body, seeds=plan.seeds, together=plan.together)
    cluster.wait_until_answering()
    for seed in range(plan.seeds):
        client.wait(client.submit(seed), _END_SECONDS)
    calm = list(client.asked)
    tell(f"calm: {len(calm)} jobs of {plan.pages} pages")

    began = time.monotonic()
    client.start()
    done = 0
    for fault in order(rng, plan.faults):
        leased, done = _wait_for_work(cluster, done, rng.uniform(*plan.between))
        what = fault(cluster, rng)
        report.faults[fault.__name__] = report.faults.get(fault.__name__, 0) + 1
        tell(f"{time.monotonic() - began:6.1f} s  {what}; {leased} shards were being scored, {done} pages were done")
    client.stop()
    cluster.wait_until_awake()
    for asked in client.asked:
        client.wait(asked.id, _END_SECONDS)
    report.seconds = round(time.monotonic() - began, 1)
    report.requests_repeated = client.repeated
    report.attempts_dropped = cluster.logged("shard aborted")
    if client.error is not None:
        report.wrong.append(f"the client gave up: {client.error}")
    _judge(cluster, calm, client.asked, report)
    return report


def _wait_for_work(cluster: Cluster, done_before: int, moment: float) -> tuple[int, int]:
    """The shards leased and the pages done, `moment` seconds after work went on since the last fault, while it does."""
    deadline = time.monotonic() + _END_SECONDS
    waited = False
    while True:
        leased, done = cluster.at_work()
        if leased and done > done_before:
            if waited:
                return leased, done
            time.sleep(moment)
            waited = True
        elif time.monotonic() > deadline:
            raise TimeoutError(f"no shard was done within {_END_SECONDS:g} s")
        else:
            time.sleep(0.02)


def _count(session: Session, table: type[Shard] | type[StoredResult]) -> int:
    return session.scalar(select(func.count()).select_from(table)) or 0


def _judge(cluster: Cluster, calm: list[Asked], asked: list[Asked], report: Report) -> None:
    with cluster.database.read() as session:
        jobs = {job.id: job for job in session.scalars(select(Job))}
        maps = list(session.scalars(select(Map)))
        left = [_count(session, table) for table in (Shard, StoredResult)]
        aliases = session.scalar(select(func.count()).select_from(Map).where(Map.job_id.is_(None)))
    of_job = Counter(found.job_id for found in maps)
    map_of = {found.job_id: found for found in maps}
    expected = {one.seed: map_of.get(one.id) for one in calm}
    report.jobs, report.maps = len(jobs), len(maps)
    report.jobs_succeeded = sum(job.state == "succeeded" for job in jobs.values())
    report.most_attempts_of_a_shard = max(job.attempts for job in jobs.values())
    wrong = report.wrong
    if set(jobs) != {one.id for one in asked} or aliases:
        wrong.append(f"{len(asked)} jobs were asked for, {len(jobs)} are there, {aliases} maps have none")
    for one in asked:
        job, found, right = jobs.get(one.id), map_of.get(one.id), expected[one.seed]
        if job is None or job.state != "succeeded":
            wrong.append(f"job {one.id} ended as {job and job.state}: {job and job.error}")
        elif job.pages_done != job.pages:
            wrong.append(f"job {one.id}: {job.pages_done} of {job.pages} pages are counted as done")
        elif of_job[one.id] != 1 or found is None or right is None:
            wrong.append(f"job {one.id} has {of_job[one.id]} maps")
        elif found.checksum != right.checksum:
            wrong.append(f"job {one.id}: its map differs from the calm run's")
        elif (found.hits, found.tokens_seen, found.pages) != (right.hits, right.tokens_seen, right.pages):
            wrong.append(f"job {one.id}: {found.hits} hits in {found.tokens_seen} tokens, calm {right.hits} hits")
    if any(left):
        wrong.append("folds left {} shards and {} results behind".format(*left))
