"""Attacks by connections: idle, slow, half shut, in pieces. Each on a scoring API of its own with short deadlines.

`python -m tests.attack.connections [--only WORD]` runs them without the other services.
"""

from __future__ import annotations

import argparse
import http.client
import resource
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Self
from urllib.parse import urlsplit

from headmap.registry.migrations import migrate
from headmap.settings import Settings
from tests.attack.live import FREE_BYTES, MOST_GROWTH, Case, Live, Outcome, Seen, run
from tests.integration.processes import Api, wait_for

Attack = Callable[["Server", Random], tuple[int, str, list[str]]]
"""Bytes sent, what came of it, faults."""

MOST_HEALTH_MS = 1000.0
"""Hundreds of connections at once are hundreds of turns of the event loop; nobody may wait for one of theirs to end."""

GET = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
QUICK = {
    "header_seconds": 2,
    "body_grace_seconds": 2,
    "reader_seconds": 3,
    "max_bodies_bytes": 32 * 2**20,
}


class Server(Live):
    """A scoring API by itself, that may open `files` files."""

    def __init__(self, settings: Settings, files: int | None = None) -> None:
        super().__init__(settings)
        self._files = files

    def __enter__(self) -> Self:
        migrate(self._settings)
        self.scoring = Api(self._settings)
        self._started = [self.scoring]
        self.pid = self.scoring.tree()[0]
        if self._files is not None:
            resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (self._files // 2, self._files))
        wait_for(self.answers, "the API answers", seconds=120)
        return self

    def answers(self, forwarded: str | None = None, body: bytes = b"") -> bool:
        """Whether somebody else is served: a look at its health, or a body that it refuses for what it says."""
        place = urlsplit(self.url("scoring"))
        connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=5)
        try:
            headers = {"X-Forwarded-For": forwarded} if forwarded else {}
            connection.request("POST" if body else "GET", "/maps" if body else "/health/live", body or None, headers)
            return connection.getresponse().status == (422 if body else 200)
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def connect(self, data: bytes = b"") -> socket.socket:
        place = urlsplit(self.url("scoring"))
        connection = socket.create_connection((place.hostname, place.port), timeout=30)
        with suppress(OSError):  # it may have been answered and closed
            connection.sendall(data)
        return connection

    def connections(self) -> int:
        """Its open sockets, those that listen or wake it up included."""
        links = []
        for link in Path(f"/proc/{self.pid}/fd").iterdir():
            try:
                links.append(link.readlink().as_posix())
            except OSError:
                continue
        return sum(link.startswith("socket:") for link in links)


def status_of(connection: socket.socket) -> int:
    """Of the last answer until the server closes; 0 without one, -1 where it does not close."""
    found = b""
    try:
        while piece := connection.recv(1 << 16):
            found = (found + piece)[-(1 << 16) :]
    except TimeoutError:
        return -1
    except OSError:
        pass
    finally:
        connection.close()
    _, mark, rest = found.rpartition(b"HTTP/1.1 ")
    return int(rest[:3]) if mark else 0


def expect(statuses: Sequence[int], *right: int) -> list[str]:
    wrong = sorted(set(statuses) - set(right))
    return [f"answered {wrong}, not {list(right)}"] if wrong else []


def idle(server: Server, random: Random) -> tuple[int, str, list[str]]:
    """1,100 connections, of which some have sent half a head, and others that come again and again."""
    crowd = [server.connect(GET[: random.choice([0, 1, 20])]) for _ in range(1100)]
    served = [server.answers() for _ in range(20)]
    crowd += [server.connect() for _ in range(300)]
    served += [server.answers() for _ in range(20)]
    for connection in crowd:
        connection.close()
    faults = [] if all(served) else [f"{served.count(False)} of {len(served)} others were not served"]
    if (size := server.scoring.log.stat().st_size) > 1 << 18:
        faults.append(f"a log of {size >> 10} KiB")
    return 0, f"{sum(served)} of {len(served)} others were served", faults


def trickling_heads(server: Server, random: Random) -> tuple[int, str, list[str]]:
    connections = [server.connect(GET[: random.randrange(1, 10)]) for _ in range(300)]
    for number in range(10, 36):
        for connection in connections:
            try:
                connection.send(GET[number : number + 1])
            except OSError:
                continue
        time.sleep(0.1)
    served = server.answers()
    statuses = [status_of(connection) for connection in connections]
    return 0, f"all {len(statuses)} were closed", expect(statuses, 408, 0) + ([] if served else ["nobody was served"])


def stalled_senders(server: Server, random: Random) -> tuple[int, str, list[str]]:
    size = 1 << 20
    lines = f"POST /maps HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 192.0.2.1\r\nContent-Length: {size}\r\n\r\n".encode()
    connections = [server.connect(lines + b" " * random.randrange(size // 2, size)) for _ in range(64)]
    served = [server.answers("192.0.2.2", b" " * size) for _ in range(5)]
    statuses = [status_of(connection) for connection in connections]
    faults = [] if all(served) else [f"{served.count(False)} of {len(served)} bodies of others were refused"]
    told = f"{statuses.count(429)} beyond the share, {statuses.count(408)} too slow"
    return 64 * size, told, faults + expect(statuses, 408, 429)


def stalled_uploads(server: Server, random: Random) -> tuple[int, str, list[str]]:
    del random
    lines = b"POST /datasets?name=a HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nPK"
    connections = [server.connect(lines) for _ in range(16)]
    answer = server.post("scoring", "/datasets?name=b", b"no archive", "application/octet-stream")
    statuses = [status_of(connection) for connection in connections]
    return 0, f"another upload was looked at: {answer.status}", expect([answer.status], 422) + expect(statuses, 408)


def slow_readers(server: Server, random: Random) -> tuple[int, str, list[str]]:
    """They ask twice on one connection, and read nothing."""
    connections = []
    for _ in range(300):
        connections.append(server.connect(GET * 2))
        time.sleep(random.uniform(0, 0.02))
    served = [server.answers() for _ in range(10)]
    wait_for(lambda: server.connections() < 20, "slow readers are hung up on", seconds=80)
    for connection in connections:
        connection.close()
    return 300 << 16, f"{sum(served)} of 10 others were served", [] if all(served) else ["others were not served"]


def pipelined(server: Server, random: Random) -> tuple[int, str, list[str]]:
    del random
    connections = [server.connect(LAST.replace(b"Connection: close\r\n", b"") * 500 + LAST) for _ in range(10)]
    statuses = [status_of(connection) for connection in connections]
    return 10 * 501 * len(LAST), "all were answered", expect(statuses, 200)


def half_closed(server: Server, random: Random) -> tuple[int, str, list[str]]:
    """The client says no more; before, in the middle of, and after its request."""
    connections = []
    for _ in range(300):
        connection = server.connect(GET[: random.choice([0, 5, len(GET)])])
        connection.shutdown(socket.SHUT_WR)
        connections.append(connection)
    statuses = [status_of(connection) for connection in connections]
    return 0, "all were closed", expect(statuses, 0, 200, 400)


def small_chunks(server: Server, random: Random) -> tuple[int, str, list[str]]:
    chunks = b"".join(b"%x\r\n%s\r\n" % (size, b"x" * size) for size in random.choices([1, 2, 3, 9], k=20_000))
    head = b"POST /score HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    connections = [server.connect(head + chunks) for _ in range(16)]
    statuses = [status_of(connection) for connection in connections]
    return 16 * len(chunks), "all were refused", expect(statuses, 400, 0)


def many_headers(server: Server, random: Random) -> tuple[int, str, list[str]]:
    heads = [GET[:-2] + b"a: b\r\n" * random.choice([129, 2000, 50_000]) + b"\r\n" for _ in range(64)]
    statuses = [status_of(server.connect(head)) for head in heads]
    return sum(map(len, heads)), "all were refused", expect(statuses, 431, 0)


def expected_and_never_sent(server: Server, random: Random) -> tuple[int, str, list[str]]:
    del random
    head = b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n"
    statuses = [status_of(connection) for connection in [server.connect(head) for _ in range(64)]]
    return 0, "all were closed", expect(statuses, 408)


def attacked_by(attack: Attack, files: int | None = None) -> Callable[[Live, Random], Outcome]:
    """A case: what others see of the server meanwhile, what it grows by, and whether all its files come back."""

    def against(live: Live, random: Random) -> Outcome:
        del live
        with _server(files) as server:
            before = server.connections()
            with server.watched("scoring") as seen:
                sent, told, faults = attack(server, random)
                if not _in_time(lambda: server.connections() <= before + 1):  # the watch's
                    faults.append(f"{server.connections()} sockets are open, {before} were")
            faults += _judged(seen, sent)
            return Outcome(f"{told}; {_figures(seen)}", tuple(faults))

    return against


@contextmanager
def _server(files: int | None) -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="headmap-attack-") as folder:
        settings = Settings.model_validate({**QUICK, "data_dir": folder})
        with Server(settings, files) as server:
            yield server


def _judged(seen: Seen, sent: int) -> list[str]:
    faults = []
    if seen.share(0.99) > MOST_HEALTH_MS:
        faults.append(f"/health/live took {seen.share(0.99):.0f} ms at p99, at most {MOST_HEALTH_MS:.0f}")
    if seen.growth > MOST_GROWTH * sent + FREE_BYTES:
        faults.append(f"grew by {seen.growth >> 20} MiB over {sent / 2**20:.1f} MiB sent")
    return faults


def _in_time(condition: Callable[[], bool]) -> bool:
    try:
        wait_for(condition, "", seconds=20)
    except TimeoutError:
        return False
    return True


def _figures(seen: Seen) -> str:
    return f"health p50 {seen.share(0.5):.0f}, p99 {seen.share(0.99):.0f} ms; {seen.growth >> 20:+d} MiB"


CASES = [
    Case("1,100 idle connections", attacked_by(idle), short=True),
    Case("1,100 idle connections, 512 files", attacked_by(idle, files=512)),
    Case("300 heads that trickle", attacked_by(trickling_heads)),
    Case("64 stalled senders", attacked_by(stalled_senders)),
    Case("16 stalled uploads", attacked_by(stalled_uploads)),
    Case("300 slow readers", attacked_by(slow_readers)),
    Case("5,000 pipelined requests", attacked_by(pipelined)),
    Case("300 half-closed sockets", attacked_by(half_closed)),
    Case("chunks of a few bytes", attacked_by(small_chunks)),
    Case("thousands of headers", attacked_by(many_headers)),
    Case("100-continue and no body", attacked_by(expected_and_never_sent)),
]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="cases whose names hold this")
    arguments = parser.parse_args(argv)
    cases = [case for case in CASES if arguments.only in case.name]
    return 1 if run(Live(Settings()), cases, arguments.seed) else 0


if __name__ == "__main__":
    sys.exit(main())
