"""Prometheus' naming rules (prometheus.io/docs/practices/naming), for every metric of both services and the worker."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

import headmap
from headmap.settings import Settings
from services.inference.http.app import create_app as create_inference
from services.scoring.app import create_app as create_scoring
from services.scoring.worker_metrics import worker_registry
from services.scoring.worker_processes import ProcessesCollector
from tests.services.inference.fakes import FakeModels
from tests.shared.jobs.fakes import CountingBroker

UNITS = {"seconds", "bytes", "ratio"}
OTHER_UNITS = {"ms", "milliseconds", "minutes", "hours", "kb", "mb", "kilobytes", "megabytes", "mebibytes", "bits"} | {
    "perc",
    "percent",
    "percentage",
}
KINDS = {"counter", "gauge", "histogram", "summary"}
COUNTS = """
from pathlib import Path
from services.scoring.worker_metrics import ShardMetrics, count_in, worker_registry
count_in(Path({folder!r}))
ShardMetrics()("done", 4, 1.0)
from prometheus_client import generate_latest
print(generate_latest(worker_registry(Path({folder!r}), lambda: 0)).decode())
"""


def worker_text(folder: Path) -> str:
    """In a process of its own: prometheus_client decides where it counts when it is imported."""
    root = Path(__file__).parents[2]
    program = COUNTS.format(folder=str(folder))
    environment = {**os.environ, "PYTHONPATH": f"{root / 'shared'}{os.pathsep}{root}"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture
def texts(tmp_path: Path, migrated: Callable[[Settings], None]) -> dict[str, str]:
    settings = Settings(data_dir=tmp_path / "data")
    migrated(settings)
    apps = {
        "scoring": create_scoring(settings, broker=CountingBroker()),
        "inference": create_inference(settings, open_model=FakeModels()),
    }
    found = {"worker": worker_text(tmp_path / "counts")}
    for name, app in apps.items():
        with TestClient(app) as client:
            found[name] = client.get("/metrics").text
    return found


def faults(family: Metric, text: str) -> list[str]:
    """What a metric's name and help do against the rules."""
    name = f"{family.name}_total" if family.type == "counter" else family.name
    words = name.removesuffix("_total").removesuffix("_info").split("_")
    found = []
    if not re.fullmatch(r"(headmap|process)(_[a-z0-9]+)+", name):
        found.append("not headmap_ and words of small letters")
    if family.type == "counter" and f"# TYPE {name} counter" not in text:
        found.append("a counter without _total")
    if family.type != "counter" and name.endswith(("_total", "_count", "_sum", "_bucket")):
        found.append("a suffix that counters and histograms have")
    if OTHER_UNITS & set(words):
        found.append("a unit that is no base unit")
    if UNITS & set(words[:-1]):
        found.append("the unit is not the last word")
    if KINDS & set(words):
        found.append("the kind of metric in its name")
    if not family.documentation:
        found.append("no help")
    return found


def test_every_metric_keeps_the_rules(texts: dict[str, str]) -> None:
    for where, text in texts.items():
        families = list(text_string_to_metric_families(text))
        assert len(families) > 8, where
        assert {f"{where} {one.name}": faults(one, text) for one in families if faults(one, text)} == {}
        names = [one.name for one in families]
        assert len(names) == len(set(names)), where


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("# HELP headmap_use_perc x\n# TYPE headmap_use_perc gauge\nheadmap_use_perc 1\n", "no base unit"),
        ("# HELP headmap_seconds_open x\n# TYPE headmap_seconds_open gauge\nheadmap_seconds_open 1\n", "last word"),
        ("# HELP headmap_jobs_total x\n# TYPE headmap_jobs_total gauge\nheadmap_jobs_total 1\n", "suffix"),
        ("# TYPE headmap_jobs gauge\nheadmap_jobs 1\n", "no help"),
    ],
)
def test_the_check_itself_sees_a_wrong_name(text: str, fault: str) -> None:
    (family,) = text_string_to_metric_families(text)
    assert any(fault in one for one in faults(family, text))


def test_every_process_tells_its_build_and_what_it_takes(texts: dict[str, str]) -> None:
    for where, text in texts.items():
        samples = {one.name: one for family in text_string_to_metric_families(text) for one in family.samples}
        build = samples["headmap_build_info"]
        assert build.value == 1
        assert build.labels == {
            "version": headmap.__version__,
            "torch": version("torch"),
            "transformers": version("transformers"),
        }
        assert samples["process_resident_memory_bytes"].value > 1e6, where
        assert samples["process_cpu_seconds_total"].value > 0, where


def test_a_worker_tells_its_children_too() -> None:
    def values() -> dict[str, float]:
        return {one.samples[0].name: one.samples[0].value for one in ProcessesCollector().collect()}

    alone = values()
    work = "while time.process_time() < end: pass"
    program = f"import time\nend = time.process_time() + 0.3\n{work}\nprint(flush=True)\ninput()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        together = values()
    ended = values()
    assert together["process_resident_memory_bytes"] > alone["process_resident_memory_bytes"] + 1e6
    assert together["process_cpu_seconds_total"] >= alone["process_cpu_seconds_total"] + 0.29
    assert ended["process_cpu_seconds_total"] >= together["process_cpu_seconds_total"], "a counter never falls"
    assert together["process_start_time_seconds"] == alone["process_start_time_seconds"]


def test_a_worker_without_a_count_tells_its_processes_alone(tmp_path: Path) -> None:
    assert "process_cpu_seconds_total" in generate_latest(worker_registry(tmp_path, lambda: 0)).decode()
