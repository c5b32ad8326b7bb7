"""Jobs and open shards by state, read from the registry at each scrape: every replica tells the same."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from headmap.errors import RegistryUnavailable
from headmap.registry.jobs import count_ended_jobs, count_jobs, count_open_shards
from headmap.registry.session import Database


class JobCollector(Collector):
    """`headmap_jobs{state}`, `headmap_jobs_ended_total{state}`, `headmap_shards_open{state}`, `headmap_registry_up`.

    The last is 0 while the registry does not answer, and then the others are missing.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("headmap_registry_up", "Whether the registry answers")
        jobs = GaugeMetricFamily("headmap_jobs", "Scoring jobs by state", labels=["state"])
        ended = CounterMetricFamily("headmap_jobs_ended", "Scoring jobs that ended, by how", labels=["state"])
        shards = GaugeMetricFamily("headmap_shards_open", "Shards that wait or are being scored", labels=["state"])
        try:
            with self._database.read() as session:
                counts, open_shards = count_jobs(session), count_open_shards(session)
                ended_counts = count_ended_jobs(session)
        except RegistryUnavailable:
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        for state, count in counts.items():
            jobs.add_metric([state.value], count)
        for state, count in ended_counts.items():
            ended.add_metric([state.value], count)
        for shard_state, count in open_shards.items():
            shards.add_metric([shard_state.value], count)
        yield from (up, jobs, ended, shards)

    def describe(self) -> list[Metric]:
        return []  # or registering would ask the registry
