"""What production does to a cluster. Each fault is one function that does it and says what it did."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable

from tests.integration.chaos.cluster import Cluster

Fault = Callable[[Cluster, random.Random], str]


def kill_worker(cluster: Cluster, rng: random.Random) -> str:
    worker = cluster.pick(rng)
    worker.kill()
    cluster.replace(worker)
    return "killed a worker with its children (kill -9)"


def kill_child(cluster: Cluster, rng: random.Random) -> str:
    cluster.pick(rng).kill_children()
    return "killed the child that holds a worker's model (kill -9)"


def restart_worker(cluster: Cluster, rng: random.Random) -> str:
    worker = cluster.pick(rng)
    code = worker.terminate()
    cluster.replace(worker)
    return f"restarted a worker (SIGTERM, it ended with {code})"


def stop_worker(cluster: Cluster, rng: random.Random) -> str:
    seconds = cluster.settings.lease_seconds * rng.uniform(1.2, 2.0)
    worker = cluster.pick(rng)
    if not cluster.put_to_sleep(worker, seconds, stop=signal.SIGSTOP, go_on=signal.SIGCONT):
        return kill_worker(cluster, rng)
    return f"stopped a worker for {seconds:.1f} s, its lease is {cluster.settings.lease_seconds:g} s (SIGSTOP, SIGCONT)"


def flush_redis(cluster: Cluster, rng: random.Random) -> str:
    cluster.redis.flush()
    return "emptied Redis (FLUSHALL)"


def restart_redis(cluster: Cluster, rng: random.Random) -> str:
    cluster.redis.restart()
    return "restarted Redis"


def crash_redis(cluster: Cluster, rng: random.Random) -> str:
    cluster.redis.restart(cluster.redis.CRASH)
    return "crashed Redis (kill -9)"


def restart_postgres(cluster: Cluster, rng: random.Random) -> str:
    cluster.postgres.restart()
    return "restarted PostgreSQL"


def crash_postgres(cluster: Cluster, rng: random.Random) -> str:
    cluster.postgres.restart(cluster.postgres.CRASH)
    return "crashed PostgreSQL (immediate shutdown, recovery)"


def restart_api(cluster: Cluster, rng: random.Random) -> str:
    code = cluster.api.terminate()
    cluster.replace_api()
    return f"restarted the API (SIGTERM, it ended with {code})"


def kill_api(cluster: Cluster, rng: random.Random) -> str:
    cluster.api.kill()
    cluster.replace_api()
    return "killed the API (kill -9)"


FAULTS: tuple[Fault, ...] = (
    kill_worker,
    kill_child,
    restart_worker,
    stop_worker,
    flush_redis,
    restart_redis,
    crash_redis,
    restart_postgres,
    crash_postgres,
    restart_api,
    kill_api,
)


def order(rng: random.Random, count: int) -> list[Fault]:
    """`count` faults in a random order in which each comes before any comes again."""
    found: list[Fault] = []
    while len(found) < count:
        found += rng.sample(FAULTS, len(FAULTS))
    return found[:count]
