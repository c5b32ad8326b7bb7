"""Who gets in: keys that nobody filled in, odd headers, pages of other sites. `python -m tests.attack.access`."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

from pydantic import SecretStr

from headmap.registry.migrations import migrate
from headmap.settings import Settings
from tests.attack.cases import Case, Outcome, run_alone
from tests.integration.processes import ROOT, Api, wait_for

KEY = "real-key"
UNFILLED = (
    '["real-key",""]',
    '["real-key"," "]',
    "real-key,,",
    '["real-key","${SECRET}"]',
    "$SECRET",
    "$(SECRET)",
    " ",
)
UNASKED = ("", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x")


@contextmanager
def scoring(*keys: str) -> Iterator[Api]:
    """The scoring API with these keys, on a registry of its own."""
    with tempfile.TemporaryDirectory(prefix="headmap-attack-") as folder:
        settings = Settings(data_dir=Path(folder), api_keys=tuple(map(SecretStr, keys)))
        migrate(settings)
        api = Api(settings)
        try:
            wait_for(lambda: status(api, "GET", "/health/live", []) == 200, "the API answers", seconds=120)
            yield api
        finally:
            api.end()


def status(api: Api, method: str, path: str, headers: list[tuple[str, bytes]]) -> int:
    """0 where no connection can be had. Headers go out as they are, several of a name too."""
    connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=30)
    try:
        connection.putrequest(method, path)
        for name, value in headers:
            connection.putheader(name, value)
        connection.putheader("Content-Length", "1" if method == "POST" else "0")
        connection.endheaders(b"x" if method == "POST" else None)
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


def unfilled_keys(_live: object, _random: Random) -> Outcome:
    """Each form of a secret that was never filled in ends the start, in a line that shows no key."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "shared"), str(ROOT)])}
    faults = []
    for value in UNFILLED:
        command = [sys.executable, "-m", "services.scoring", "--port", "0"]
        given = {**environment, "HEADMAP_API_KEYS": value}
        try:
            ended = subprocess.run(command, env=given, capture_output=True, text=True, timeout=60, check=False)
        except subprocess.TimeoutExpired:
            faults.append(f"HEADMAP_API_KEYS={value!r} starts")
            continue
        line = ended.stderr.strip()
        if ended.returncode != 2 or not line.startswith("headmap: HEADMAP_API_KEYS") or "\n" in line or KEY in line:
            faults.append(f"HEADMAP_API_KEYS={value!r} ends with {ended.returncode}: {line[:200]}")
    return Outcome(f"{len(UNFILLED)} forms", tuple(faults))


def odd_headers(_live: object, random: Random) -> Outcome:
    """One header with the one key lets in; pieces of it, put together at random, do not."""
    pieces = [b"Bearer", b"bearer", b" ", b"\t", KEY.encode(), b"", b",", b"\xff", b"Basic", KEY.encode()[:-1], b"="]
    faults = []
    with scoring(KEY) as api:
        if status(api, "GET", "/maps", [("Authorization", b"Bearer " + KEY.encode())]) != 200:
            faults.append("the key itself is refused")
        tried = 0
        for _ in range(400):
            headers = [
                ("Authorization", b"".join(random.choices(pieces, k=random.randint(0, 5))).strip())
                for _ in range(random.choice((1, 1, 2)))
            ]
            right = len(headers) == 1 and _is_right(headers[0][1])
            found = status(api, "GET", "/maps", headers)
            tried += 1
            if found != (200 if right else 401) and not (found == 400 and not right):
                faults.append(f"{headers} is answered {found}")
    return Outcome(f"{tried} headers", tuple(faults[:5]))


def _is_right(value: bytes) -> bool:
    scheme, _, key = value.partition(b" ")
    return scheme.lower() == b"bearer" and key.strip() == KEY.encode()


def other_sites(_live: object, _random: Random) -> Outcome:
    """What a browser posts for another site's page without asking first reaches no route."""
    faults = []
    with scoring() as api:
        for path in ("/datasets?name=mine", "/score", "/maps", "/score/"):
            for kind in UNASKED:
                typed = [("Content-Type", kind.encode())] if kind else []
                others = [("Origin", b"https://evil.example"), ("Sec-Fetch-Site", b"cross-site"), ("Origin", b"null")]
                faults += [
                    f"POST {path} as {kind or 'nothing'} from {other} is answered {found}"
                    for other in others
                    if (found := status(api, "POST", path, [*typed, other])) != 403
                ]
                if status(api, "POST", path, typed) == 403:
                    faults.append(f"POST {path} as {kind or 'nothing'} of no browser is refused")
    return Outcome("4 routes, 4 types", tuple(faults[:5]))


CASES = (
    Case("keys that nobody filled in", unfilled_keys),
    Case("odd Authorization headers", odd_headers, short=True),
    Case("posts of other sites' pages", other_sites),
)

if __name__ == "__main__":
    sys.exit(run_alone(CASES, int(sys.argv[1]) if len(sys.argv) > 1 else 0))
