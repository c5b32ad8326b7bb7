"""A client that keeps jobs running and is not put off by an API that is away."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any

import httpx

_PATIENCE_SECONDS = 90.0


@dataclass(frozen=True)
class Asked:
    """A job that the API took; `seed` decides its pages."""

    id: str
    seed: int


class Client:
    """Submits jobs so that `together` run at a time, from `start` to `stop`; repeats what was not answered.

    Repeats carry the same Idempotency-Key, so a request whose answer was lost starts no second job.
    """

    def __init__(self, url: str, body: dict[str, Any], *, seeds: int, together: int) -> None:
        self.asked: list[Asked] = []
        self.repeated = 0
        self.error: str | None = None
        self._http = httpx.Client(base_url=url, timeout=10, trust_env=False)
        self._body, self._seeds, self._together = body, seeds, together
        self._open: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="client", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(_PATIENCE_SECONDS)

    def submit(self, seed: int) -> str:
        """The id of a new job. Raises TimeoutError where the API stays away."""
        key = f"chaos-{len(self.asked)}"
        body = {**self._body, "seed": seed, "force": True}
        job = self._ask("POST", "/score", json=body, headers={"Idempotency-Key": key})
        self.asked.append(Asked(job["id"], seed))
        return str(job["id"])

    def wait(self, job_id: str, seconds: float) -> dict[str, Any]:
        """The job once it has ended, or as it is after `seconds`."""
        deadline = time.monotonic() + seconds
        while True:
            job = self._ask("GET", f"/score/{job_id}")
            if job["finished_at"] is not None or time.monotonic() > deadline:
                return job
            time.sleep(0.1)

    def _run(self) -> None:
        try:
            while not self._stop.wait(0.1):
                for job_id in list(self._open):
                    if self._ask("GET", f"/score/{job_id}")["finished_at"] is not None:
                        self._open.remove(job_id)
                while len(self._open) < self._together:
                    self._open.append(self.submit(len(self.asked) % self._seeds))
        except TimeoutError as error:
            self.error = str(error)

    def _ask(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                answer = self._http.request(method, path, **options)
                if answer.status_code < 500:
                    found: dict[str, Any] = answer.raise_for_status().json()
                    return found
                said = answer.text
            except httpx.TransportError as error:
                said = repr(error)
            if time.monotonic() > deadline:
                raise TimeoutError(f"{method} {path}: {said}")
            self.repeated += 1
            time.sleep(0.2)
