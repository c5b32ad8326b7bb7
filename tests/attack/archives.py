"""Archives that cost more than they look, sent to the scoring API. `python -m tests.attack.archives [SEED]`."""

from __future__ import annotations

import gzip
import struct
import sys
import time
import zipfile
from collections.abc import Callable
from random import Random

import httpx

from headmap.datasets.archive import _ENTRY
from tests.attack.cases import Case, Outcome, run_alone
from tests.attack.scoring_api import looked_at, scoring_api
from tests.integration.processes import wait_for
from tests.shared.datasets.archives import as_tar, as_tar_gz, as_zip, files

MIB = 2**20


def one_line(random: Random) -> bytes:
    """A zip of some 60 KiB whose index is one line of 60 MiB."""
    item = random.choice([b"[],", b"{},", b"0,", b'"",'])
    line = b'{"file":"a.png","words":[' + item * (60 * MIB // len(item)) + b"0]}"
    return as_zip({"pages.jsonl": line}, method=zipfile.ZIP_DEFLATED)


def many_lines(random: Random) -> bytes:
    return as_zip({"pages.jsonl": b"{}" * random.randint(1, 3) + b"\n" * (60 * MIB)})


def many_entries(random: Random) -> bytes:
    """A zip that is little more than a directory of 640,000 entries; its last record tells of as many as it can."""
    entry = _ENTRY.pack(b"PK\x01\x02", 1, 0, 0) + b"a"
    directory = entry * random.randint(600_000, 640_000)
    return b"PK" + directory + struct.pack("<4s4xHHIIH", b"PK\x05\x06", 65535, 65535, len(directory), 2, 0)


def long_names(random: Random) -> bytes:
    return as_zip({f"{number}{'n' * 30_000}": b"" for number in range(random.randint(400, 500))})


def gzip_bomb(random: Random) -> bytes:
    return gzip.compress(as_tar(files()) + bytes(random.randint(900, 1000) * MIB), 1)


def deep(random: Random) -> bytes:
    return as_zip({"pages.jsonl": b"[" * random.randint(2, 3) * MIB})


def sent(
    make: Callable[[Random], bytes], statuses: tuple[int, ...] = (413, 422)
) -> Callable[[object, Random], Outcome]:
    def run(_live: object, random: Random) -> Outcome:
        data = make(random)
        with scoring_api() as api, looked_at(api) as looks:
            began = time.monotonic()
            answer = httpx.post(f"{api.url}/datasets?name=a", content=data, timeout=300, trust_env=False)
            seconds = time.monotonic() - began
        wrong = [f"answered {answer.status_code}: {answer.text[:200]}"] * (answer.status_code not in statuses)
        told = f"{len(data) / MIB:.2f} MiB, {answer.status_code} after {seconds:.1f} s, {looks.told()}"
        return Outcome(told, (*wrong, *looks.faults()))

    return run


def client_leaves(_live: object, random: Random) -> Outcome:
    """The check of a long archive ends soon after its sender has gone."""
    content = files(1, folder="")
    many = as_zip({**{f"{number}.png": content["0000.png"] for number in range(2000)}, "pages.jsonl": b"\n".join(
        content["pages.jsonl"].replace(b"0000.png", f"{number}.png".encode()) for number in range(2000)
    )})  # fmt: skip
    with scoring_api() as api:
        try:
            httpx.post(f"{api.url}/datasets?name=a", content=many, timeout=random.uniform(1.5, 2.5), trust_env=False)
            return Outcome("done before it could be left", ("too short to tell",))
        except httpx.TimeoutException:
            began = time.monotonic()
        try:
            wait_for(lambda: not api.children(), "its process ends", seconds=10)
        except TimeoutError as error:
            return Outcome("still at it", (str(error),))
        left = httpx.get(f"{api.url}/datasets", timeout=30, trust_env=False).json()["items"]
    return Outcome(f"ended after {time.monotonic() - began:.1f} s", ("filed all the same",) * bool(left))


def mutations(_live: object, random: Random) -> Outcome:
    """Archives with some bytes changed are filed or refused."""
    seeds = [pack(files()) for pack in (as_zip, as_tar, as_tar_gz)]
    seen: dict[int, int] = {}
    with scoring_api() as api, httpx.Client(base_url=api.url, timeout=60, trust_env=False) as client:
        for number in range(60):
            data = bytearray(random.choice(seeds))
            for _ in range(random.choice([1, 3, 30])):
                place = random.choice([random.randrange(len(data)), -random.randrange(1, 400)])
                data[place] = random.randrange(256)
            del data[len(data) - random.choice([0, 0, 1, 700]) :]
            status = client.post(f"/datasets?name=a{number}", content=bytes(data)).status_code
            seen[status] = seen.get(status, 0) + 1
    return Outcome(str(seen), tuple(f"answered {status}" for status in seen if status not in (201, 413, 422)))


CASES = (
    Case("a zip with one line of 60 MiB", sent(one_line), short=True),
    Case("a zip with 60 million lines", sent(many_lines)),
    Case("a zip directory of 640,000 entries", sent(many_entries), short=True),
    Case("a zip of long names", sent(long_names)),
    Case("a tar.gz of a gigabyte of nothing", sent(gzip_bomb, (201, 413, 422))),
    Case("an index nested deeply", sent(deep)),
    Case("a client that leaves", client_leaves),
    Case("archives with bytes changed", mutations),
)

if __name__ == "__main__":
    sys.exit(run_alone(CASES, int(sys.argv[1]) if len(sys.argv) > 1 else 0))
