"""Prometheus metrics of one application, in a registry of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import InfoMetricFamily, Metric
from prometheus_client.registry import Collector

import headmap

METHODS = frozenset({"GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"})
"""Those that are told by name; a client can make up any other."""

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)

Aliases = Callable[[Metric], Iterable[Metric]]
"""A family under the names that other tools have for it; none where they have none."""


class BuildCollector(Collector):
    """`headmap_build_info`: the releases of Headmap and of what computes; a package that is not here is left out."""

    def collect(self) -> Iterator[Metric]:
        releases = {"version": headmap.__version__}
        for name in ("torch", "transformers"):
            try:
                releases[name] = version(name)
            except PackageNotFoundError:
                continue
        yield InfoMetricFamily("headmap_build", "1; the releases that this process runs", value=releases)


class Metrics(Collector):
    """Requests by method, route and status; the process; the build. Services register further ones with `registry`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.registry.register(BuildCollector())
        self._aliases: list[Aliases] = []
        labels = ("method", "route")
        self._requests = Counter(
            "headmap_http_requests_total", "HTTP requests", (*labels, "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "headmap_http_request_seconds",
            "Time to the end of the answer",
            labels,
            buckets=_BUCKETS,
            registry=self.registry,
        )

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        known = method if method in METHODS else "other"
        self._requests.labels(known, route, str(status)).inc()
        self._seconds.labels(known, route).observe(seconds)

    def alias(self, aliases: Aliases) -> None:
        """Expose metric families under further names as well."""
        self._aliases.append(aliases)

    def collect(self) -> Iterator[Metric]:
        """Yield each metric family of the registry without its creation times, then the family's aliases."""
        for family in self.registry.collect():
            if family.type != "gauge":
                family.samples = [one for one in family.samples if one.name != f"{family.name}_created"]
            yield family
            for aliases in self._aliases:
                yield from aliases(family)

    def expose(self) -> bytes:
        """Return the metrics in the text format, version 0.0.4."""
        return generate_latest(self)
