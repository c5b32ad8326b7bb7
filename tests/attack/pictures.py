"""Pictures that cost more than they look, and clients that leave: an ordinary question is answered meanwhile.

Alone: `python -m tests.attack pictures`.
"""

from __future__ import annotations

import base64
import json
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from urllib.parse import urlsplit

from PIL import Image

from tests.attack.live import Answer, Case, Live, Outcome
from tests.shared.pictures import files
from tests.shared.pictures.test_parts import MANY, page

MOST_SECONDS = 10.0
"""Of an ordinary question beside the attack, on two cores that the attack uses as well."""


def ordinary() -> bytes:
    return body([files.saved(page(), "PNG")])


def body(pictures: Sequence[bytes]) -> bytes:
    images = [base64.b64encode(one).decode() for one in pictures]
    return json.dumps({"inputs": "What?", "images": images, "parameters": {"max_new_tokens": 4}}).encode()


def leave(live: Live, sent: bytes, seconds: float) -> None:
    """Send a request, and close the connection so much later."""
    place = urlsplit(live.url("inference"))
    with socket.create_connection((place.hostname, place.port), timeout=30) as connection:
        head = f"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(sent)}"
        connection.sendall(f"{head}\r\n\r\n".encode() + sent)
        time.sleep(seconds)


def questioned(live: Live) -> tuple[float, Answer]:
    """Seconds that an ordinary question takes, and its answer."""
    began = time.perf_counter()
    answer = live.post("inference", "/generate", ordinary())
    return time.perf_counter() - began, answer


@dataclass(frozen=True)
class Left:
    """`count` requests, each with pictures that `make` makes; their clients leave after a second."""

    name: str
    make: Callable[[Random], list[bytes]]
    count: int = 2
    short: bool = False

    def case(self) -> Case:
        return Case(self.name, self.run, self.short)

    def run(self, live: Live, random: Random) -> Outcome:
        sent = body(self.make(random))
        questioned(live)  # so that a process is there
        with live.watched("inference") as seen:
            for _ in range(self.count):
                leave(live, sent, 1.0)
            seconds, answer = questioned(live)
        told = f"{answer.status} after {seconds:.2f} s, p99 of health {seen.share(0.99):.0f} ms"
        faults = live.judge(seen, self.count * len(sent))
        if answer.status != 200 or seconds > MOST_SECONDS:
            faults.append(f"an ordinary question: {told}")
        return Outcome(told, tuple(faults))


@dataclass(frozen=True)
class Refused:
    """A picture that has to be refused by its header."""

    name: str
    make: Callable[[], bytes]
    short: bool = False

    def case(self) -> Case:
        return Case(f"refused: {self.name}", self.run, self.short)

    def run(self, live: Live, random: Random) -> Outcome:
        sent = body([self.make()])
        with live.watched("inference") as seen:
            answer = live.post("inference", "/generate", sent)
        faults = live.judge(seen, len(sent))
        if answer.status not in (413, 422):
            faults.append(f"answered {answer.status}: {answer.body[:200]!r}")
        return Outcome(f"{answer.status} {answer.body[:120]!r}", tuple(faults))


def scans(random: Random, size: tuple[int, int] = (2000, 2000), length: int = 1_900_000) -> list[bytes]:
    """A progressive JPEG of so many bytes, nearly all of them scans that change nothing."""
    data = files.saved(Image.new("L", size, random.randrange(256)), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return [data[:-2] + last * ((length - len(data)) // len(last)) + data[-2:]]


def large(random: Random) -> list[bytes]:
    """As many pixels as one request may have, in little more than 100 KiB."""
    return [files.saved(Image.new("1", (8000, 4900), random.randrange(2)), "PNG") for _ in range(4)]


CASES = [
    Left("two JPEGs of 1.9 MB of scans whose clients leave", scans, short=True).case(),
    Left("eight of them", scans, count=8).case(),
    Left("requests of 160 megapixels whose clients leave", large, count=4).case(),
    *(Refused(name, make, short=name == "thousands of scans").case() for name, make in MANY.items()),
]
