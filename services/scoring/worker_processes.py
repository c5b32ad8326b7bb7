"""`process_*` of a worker: its main process and the children that score, added up."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from prometheus_client import ProcessCollector
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

_OF_MAIN = ("process_start_time_seconds", "process_max_fds")


class ProcessesCollector(Collector):
    """Of this process and its children; nothing where there is no /proc.

    The processor time of children that ended stays: it is part of what this process has waited for.
    """

    def collect(self) -> Iterator[Metric]:
        families = {family.name: family for family in _look("self")}
        for child in _children():
            for family in _look(child):
                if family.name in families and family.name not in _OF_MAIN:
                    _add(families[family.name], family.samples[0].value)
        for family in families.values():
            if isinstance(family, CounterMetricFamily):
                times = os.times()
                _add(family, times.children_user + times.children_system)
            yield family


def _look(process: str) -> list[Metric]:
    return list(ProcessCollector(pid=partial(str, process), registry=None).collect())


def _add(family: Metric, value: float) -> None:
    first = family.samples[0]
    family.samples[0] = first._replace(value=first.value + value)


def _children() -> list[str]:
    found: list[str] = []
    for path in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):  # the thread has ended
            found += path.read_text(encoding="ascii").split()
    return found
