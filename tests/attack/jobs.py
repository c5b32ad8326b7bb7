"""Jobs, followers, maps and queue files beyond what is meant. `python -m tests.attack.jobs [SEED]`."""

from __future__ import annotations

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from random import Random

import httpx

from headmap.registry.session import open_database
from headmap.settings import DEMO_MODEL, Settings
from tests.attack.cases import Case, Outcome, run_alone
from tests.attack.scoring_api import looked_at, scoring_api
from tests.integration.processes import Api

FOLLOWERS = 300
MOST_LISTING_MS = 100.0


def post(api: Api, path: str, body: object) -> httpx.Response:
    return httpx.post(f"{api.url}{path}", json=body, timeout=120, trust_env=False)


def huge_jobs(_live: object, random: Random) -> Outcome:
    """Bodies of 100 bytes, each for as many pages as a job may have."""
    start = random.randrange(2**40)
    with scoring_api() as api, looked_at(api) as looks:
        found = [
            post(api, "/score", {"model": DEMO_MODEL, "pages": 100_000, "seed": start + number}).status_code
            for number in range(12)
        ]
    faults = [f"answered {found}"] * (429 not in found or set(found) - {202, 429} != set())
    return Outcome(f"{found.count(202)} of {len(found)} are taken, {looks.told()}", (*faults, *looks.faults()))


def followers(_live: object, _random: Random) -> Outcome:
    """`GET /maps` while hundreds follow a job that moves."""
    with scoring_api() as api:
        job = post(api, "/score", {"model": DEMO_MODEL, "pages": 1000}).json()["id"]
        stop = threading.Event()

        def follow() -> None:
            with httpx.stream("GET", f"{api.url}/score/{job}/events", timeout=120, trust_env=False) as answer:
                for _ in answer.iter_lines():
                    if stop.is_set():
                        return

        def move() -> None:
            database = open_database(Settings(data_dir=api.log.parent))
            while not stop.wait(0.5):
                with database.write() as session:
                    session.connection().exec_driver_sql("UPDATE jobs SET pages_done = pages_done + 1")
            database.close()

        with ThreadPoolExecutor(FOLLOWERS + 1) as pool:
            pool.submit(move)
            for _ in range(FOLLOWERS):
                pool.submit(follow)
            time.sleep(5)
            took = []
            with httpx.Client(base_url=api.url, timeout=60, trust_env=False) as client:
                for _ in range(50):
                    began = time.perf_counter()
                    client.get("/maps")
                    took.append((time.perf_counter() - began) * 1000)
                    time.sleep(0.05)
            stop.set()
            httpx.delete(f"{api.url}/score/{job}", timeout=60, trust_env=False)
    median = sorted(took)[len(took) // 2]
    told = f"{FOLLOWERS} follow; GET /maps p50 {median:.0f}, most {max(took):.0f} ms"
    return Outcome(told, (f"p50 {median:.0f} ms",) * (median > MOST_LISTING_MS))


def huge_maps(_live: object, random: Random) -> Outcome:
    """Maps beyond all models are refused; those of the largest size are drawn while others are served."""
    heads = random.choice([1, 64, 256])
    largest = {f"{layer}-{head}": random.random() for layer in range(65_536 // heads) for head in range(heads)}
    with scoring_api() as api:
        ids = [post(api, "/maps", {"model": "m", "num_kv_heads": 1, "scores": largest}).json()["id"] for _ in range(2)]
        refused = post(
            api, "/maps", {"model": "m", "num_kv_heads": 1, "scores": {**largest, f"{65_536 // heads}-0": 1}}
        )
        with looked_at(api) as looks, ThreadPoolExecutor(6) as pool:
            paths = [f"/maps/{ids[0]}/compare/{ids[1]}/scatter.svg", f"/maps/{ids[0]}/heatmap.svg"] * 3
            began = time.monotonic()
            answers = list(pool.map(lambda path: httpx.get(f"{api.url}{path}", timeout=300, trust_env=False), paths))
            seconds = time.monotonic() - began
    faults = [f"one head more: {refused.status_code}"] * (refused.status_code != 422)
    faults += [f"{answer.status_code}" for answer in answers if answer.status_code != 200]
    return Outcome(f"6 pictures in {seconds:.1f} s, {looks.told()}", (*faults, *looks.faults(most_growth_mib=600)))


CASES = (
    Case("jobs of 100,000 pages", huge_jobs, short=True),
    Case("300 followers", followers),
    Case("maps of the largest size", huge_maps),
)

if __name__ == "__main__":
    sys.exit(run_alone(CASES, int(sys.argv[1]) if len(sys.argv) > 1 else 0))
