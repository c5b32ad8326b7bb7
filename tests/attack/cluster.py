"""`headmap up` whose processes are stopped or killed one by one. `python -m tests.attack.cluster`."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from random import Random

import httpx

from headmap.settings import DEMO_MODEL
from tests.attack.cases import Case, Outcome, run_alone
from tests.services.embedded.test_up import WEB, WORKER, refused_in_one_line, running, wait_for

MOST_WAIT_SECONDS = 60.0


def stopped_web(_live: object, _random: Random) -> Outcome:
    """A web process that is stopped and not dead is replaced, and clients that waited are served."""
    with tempfile.TemporaryDirectory(prefix="headmap-attack-") as folder, running(Path(folder) / "data") as up:
        url = up.url()
        os.kill(up.children()[WEB], signal.SIGSTOP)
        began = time.monotonic()
        status = httpx.get(f"{url}/health/ready", timeout=180).status_code
        seconds = time.monotonic() - began
        told = "did not answer for" in up.text
    faults = [f"answered {status}"] * (status != 200) + ["the supervisor says nothing"] * (not told)
    return Outcome(f"served again after {seconds:.0f} s", tuple(faults))


def killed_worker(_live: object, random: Random) -> Outcome:
    """A job goes on soon after its worker was killed in the middle of a shard, before its lease has run out."""
    with tempfile.TemporaryDirectory(prefix="headmap-attack-") as folder, running(Path(folder) / "data") as up:
        url = up.url()
        job = httpx.post(f"{url}/score", json={"model": DEMO_MODEL, "pages": 64}).json()["id"]

        def done() -> int:
            return int(httpx.get(f"{url}/score/{job}", timeout=30).json()["progress"]["done"])

        wait_for(lambda: done() > random.randint(1, 6), 120)
        before = done()
        os.kill(up.children()[WORKER], signal.SIGKILL)
        began = time.monotonic()
        wait_for(lambda: done() > before, 200)
        seconds = time.monotonic() - began
    faults = (f"{seconds:.0f} s",) if seconds > MOST_WAIT_SECONDS else ()
    return Outcome(f"beyond {before} pages after {seconds:.0f} s", faults)


def killed_supervisor(_live: object, _random: Random) -> Outcome:
    """While a child of a killed supervisor lives, no second cluster starts on its data."""
    with tempfile.TemporaryDirectory(prefix="headmap-attack-") as folder, running(Path(folder) / "data") as up:
        up.url()
        child = up.children()[WORKER]
        os.kill(child, signal.SIGSTOP)  # it cannot end by itself
        up.process.kill()
        up.process.wait()
        faults: tuple[str, ...] = ()
        try:
            refused_in_one_line({"another cluster runs on": ["--port", "0", "--data-dir", str(up.data_dir)]})
        except AssertionError as error:
            faults = (f"a second one starts, or tells more than a line: {error}",)
        finally:
            os.kill(child, signal.SIGCONT)
    return Outcome("the second start is refused", faults)


CASES = (
    Case("a stopped web process", stopped_web),
    Case("a killed worker", killed_worker),
    Case("a killed supervisor", killed_supervisor),
)

if __name__ == "__main__":
    sys.exit(run_alone(CASES, int(sys.argv[1]) if len(sys.argv) > 1 else 0))
