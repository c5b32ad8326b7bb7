"""Metrics of a scoring worker: each scoring process counts, and the worker's main process serves them over HTTP.

The counts of all its processes are in files of one folder (prometheus-client's multiprocess mode), so the counts of a
killed child stay. `prometheus_client` decides on that when it is imported: call `count_in` before anything does.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from headmap.errors import HeadmapError, NotFound
from headmap.http.auth import bearer_key
from headmap.http.keyring import KeyRing

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric

_OUTCOMES = ("done", "retry", "failed", "lost", "handed_back")
_PAGE_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_FOLDER = "PROMETHEUS_MULTIPROC_DIR"


def count_in(folder: Path) -> None:
    """Let this process and its children count in files of `folder`, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    os.environ[_FOLDER] = str(folder)


class ShardMetrics:
    """The counts of scoring processes. An instance is the `Observe` of `headmap.jobs.runner`."""

    def __init__(self) -> None:
        from prometheus_client import Counter, Histogram

        self._shards = Counter(
            "headmap_shards", "Attempts at shards, by what became of them", ("outcome",), registry=None
        )
        for outcome in _OUTCOMES:
            self._shards.labels(outcome)  # told from the start: an increase is seen from 0 on
        self._pages = Counter("headmap_pages_scored", "Pages of shards that are done", registry=None)
        self._seconds = Histogram(
            "headmap_page_seconds",
            "Scoring one page, by its shard's average",
            buckets=_PAGE_SECONDS,
            registry=None,
        )

    def __call__(self, outcome: str, pages: int, seconds: float) -> None:
        self._shards.labels(outcome).inc()
        if outcome == "done":
            self._pages.inc(pages)
            self._seconds.observe(seconds / pages)


def worker_registry(folder: Path, leases_taken_back: Callable[[], int]) -> CollectorRegistry:
    """A worker's metrics: the counts in `folder`, and its sweeper's."""
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import CounterMetricFamily
    from prometheus_client.registry import Collector

    class Sweeps(Collector):
        def collect(self) -> Iterator[Metric]:
            meaning = "Shards whose worker did not renew its lease, taken back by this worker's sweeper"
            yield CounterMetricFamily("headmap_leases_lost", meaning, value=leases_taken_back())

    registry = CollectorRegistry()
    collect_counts(registry, folder)
    registry.register(Sweeps())
    return registry


def collect_counts(registry: CollectorRegistry, folder: Path) -> None:
    """Let `registry` collect the counts in `folder`."""
    from prometheus_client.multiprocess import MultiProcessCollector

    class Counts(MultiProcessCollector):
        def collect(self) -> Iterable[Metric]:  # its own takes the folder's name for a pattern
            return self.merge([str(path) for path in folder.glob("*.db")], accumulate=True)

    Counts(registry, str(folder))  # registers itself


class _Handler(WSGIRequestHandler):
    timeout = 10
    """Seconds for a scrape to arrive; one is served at a time."""

    def log_message(self, format: str, *args: Any) -> None:
        pass


def serve_metrics(registry: CollectorRegistry, keys: KeyRing, port: int, host: str = "0.0.0.0") -> WSGIServer:  # noqa: S104  Prometheus asks from outside
    """Serve GET /metrics on a thread to callers that `keys` lets in. `shutdown` ends it."""
    from prometheus_client import make_wsgi_app

    metrics = make_wsgi_app(registry)

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        try:
            asyncio.run(keys.admit(bearer_key([environ.get("HTTP_AUTHORIZATION", "")])))
            if environ["PATH_INFO"] != "/metrics":
                raise NotFound(f"there is no {environ['PATH_INFO']}; here is only /metrics")
        except HeadmapError as error:
            headers = [("Content-Type", "application/problem+json")]
            start_response(f"{error.status} {error.title}", headers)
            return [json.dumps(error.problem()).encode()]
        found: Iterable[bytes] = metrics(environ, start_response)
        return found

    server = make_server(host, port, application, handler_class=_Handler)
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return server
