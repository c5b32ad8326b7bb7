"""Services as processes, what they answer meanwhile, and what they grow by.

A file of attacks has `CASES`. Each case does its worst to a `Live` and tells what came of it.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Literal, Self
from urllib.parse import urlsplit

from headmap.registry.migrations import migrate
from headmap.settings import Settings
from tests.integration.processes import Api, Inference, Process, wait_for

ROOT = Path(__file__).parents[2]
EVERY_SECONDS = 0.01
MOST_HEALTH_MS = 100.0
MOST_GROWTH = 4
"""Times the bytes that were sent."""
FREE_BYTES = 32 * 2**20
"""Growth that no case has to explain: an allocator's pools, threads that start."""

_CHUNK = 1 << 18

Service = Literal["inference", "scoring"]


@dataclass(frozen=True)
class Answer:
    """What a request was answered, or status 0 where the connection broke off."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """`faults`: what should not be, in words; none where the services held."""

    told: str
    faults: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """`short`: part of the short form, which the tests run."""

    name: str
    run: Callable[[Live, Random], Outcome]
    short: bool = False


@dataclass
class Seen:
    """How long each look at /health/live took, and the growth of a service with its children above what it held."""

    looks_ms: list[float] = field(default_factory=list)
    growth: int = 0

    def share(self, share: float) -> float:
        """The time that so many of the looks took at most."""
        ordered = sorted(self.looks_ms)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


class Live:
    """The inference service with the bundled model, and the scoring API, on one registry. Use as a context.

    `most_health_ms`: what /health/live may take at p99.
    """

    def __init__(self, settings: Settings, most_health_ms: float = MOST_HEALTH_MS) -> None:
        self._settings, self._most_health_ms = settings, most_health_ms
        self._started: list[Process] = []

    def __enter__(self) -> Self:
        migrate(self._settings)
        self.inference, self.scoring = Inference(self._settings), Api(self._settings)
        self._started = [self.inference, self.scoring]
        for url in (self.inference.url, self.scoring.url):
            wait_for(lambda url=url: _lives(url), f"{url} answers", seconds=120)  # type: ignore[misc]
        # What comes first starts helper processes, which stay.
        for parameters in (b'{"max_new_tokens":1}', b'{"max_new_tokens":1,"grammar":{"type":"regex","value":"a"}}'):
            self.post("inference", "/generate", b'{"inputs":"Hi","parameters":%b}' % parameters)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._started:
            process.end()

    def url(self, service: Service) -> str:
        return (self.inference if service == "inference" else self.scoring).url

    def post(self, service: Service, path: str, body: bytes, content_type: str = "application/json") -> Answer:
        address = urlsplit(self.url(service))
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=120)
        try:
            connection.putrequest("POST", path)
            connection.putheader("Content-Type", content_type)
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders()
            try:
                for start in range(0, len(body), _CHUNK):
                    connection.send(memoryview(body)[start : start + _CHUNK])
            except (BrokenPipeError, ConnectionResetError):
                pass  # an answer may stand there all the same
            response = connection.getresponse()
            return Answer(response.status, response.read(), {k.lower(): v for k, v in response.getheaders()})
        except (OSError, http.client.HTTPException):
            return Answer(0)
        finally:
            connection.close()

    def judge(self, seen: Seen, sent: int) -> list[str]:
        """Faults of health and memory while `sent` bytes were being dealt with."""
        faults = []
        if seen.share(0.99) > self._most_health_ms:
            faults.append(f"/health/live took {seen.share(0.99):.0f} ms at p99, at most {self._most_health_ms:.0f}")
        if seen.growth > MOST_GROWTH * sent + FREE_BYTES:
            faults.append(f"grew by {seen.growth >> 20} MiB over {sent / 2**20:.1f} MiB sent")
        return faults

    @contextmanager
    def watched(self, service: Service) -> Iterator[Seen]:
        """Look at the service's health every 10 ms, from a process of its own, and at its memory."""
        process = self.inference if service == "inference" else self.scoring
        pids = process.tree()
        for pid in pids:
            Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak starts again
        before = sum(_memory(pid, "VmRSS") for pid in pids)
        seen = Seen()
        watch = subprocess.Popen(
            [sys.executable, "-m", "tests.attack.watch", process.url, str(EVERY_SECONDS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "shared"), str(ROOT)])},
        )
        if watch.stdout is None or not watch.stdout.readline():  # its first look
            raise RuntimeError("the watch did not start")
        try:
            yield seen
            time.sleep(5 * EVERY_SECONDS)
        finally:
            told, _ = watch.communicate(b"", timeout=60)
            seen.looks_ms = json.loads(told)
            seen.growth = sum(_memory(pid, "VmHWM") for pid in process.tree()) - before


def run(live: Live, cases: Sequence[Case], seed: int, tell: Callable[[str], None] = print) -> list[str]:
    """Run `cases` one after another. Returns the faults of all."""
    faults: list[str] = []
    for number, case in enumerate(cases):
        outcome = case.run(live, Random(f"{seed}/{number}/{case.name}"))
        tell(f"{'FAULT' if outcome.faults else 'held '}  {case.name:<52} {outcome.told}")
        for fault in outcome.faults:
            tell(f"       {fault}")
        faults += [f"{case.name}: {fault}" for fault in outcome.faults]
    return faults


def _lives(url: str) -> bool:
    address = urlsplit(url)
    try:
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=2)
        connection.request("GET", "/health/live")
        return connection.getresponse().status == 200
    except OSError:
        return False


def _memory(pid: int, name: Literal["VmRSS", "VmHWM"]) -> int:
    """Bytes; 0 for a process that has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), 0)
