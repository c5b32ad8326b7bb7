"""One process of the embedded cluster: start, check, restart, end, and its log."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

from headmap.settings import Settings

_FIRST_BACK_OFF, _LAST_BACK_OFF = 1.0, 30.0
_STABLE_SECONDS = 60.0
_LARGEST_LOG = 10 * 2**20


class Process:
    """One child: its own session (a terminal's Ctrl-C reaches the supervisor alone), a lifeline, a log file."""

    def __init__(self, name: str, arguments: Sequence[str], settings: Settings, keep: Sequence[int] = ()) -> None:
        self.name = name
        self.log = settings.data_dir / "logs" / f"{name}.log"
        self._arguments, self._settings, self._keep = arguments, settings, keep
        self._child: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._back_off = _FIRST_BACK_OFF
        self._start_at: float | None = None
        self._well_at = 0.0
        self._given_up: str | None = None

    def start(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.rotate()
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(  # noqa: S603  our own modules, no shell
                [sys.executable, "-m", *self._arguments],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=_environment(self._settings),
                pass_fds=self._keep,
                start_new_session=True,
            )
        self._started_at = self._well_at = time.monotonic()
        self._start_at = self._given_up = None

    def rotate(self) -> None:
        """Move a log that has become large to `.log.1`, also under a child that writes it.

        Whatever writes to standard error has the file open, native code too, so it is copied and emptied in place; a
        line that comes between the two is lost.
        """
        with suppress(OSError):  # somebody has removed it, or the disk is full: the cluster goes on
            if self.log.stat().st_size <= _LARGEST_LOG:
                return
            try:
                shutil.copyfile(self.log, self.log.with_suffix(".log.1"))
            finally:
                os.truncate(self.log, 0)

    def start_again(self) -> str | None:
        """Start it again if it ended, after a wait that doubles each time until it runs for long.

        Returns a line for the user, once for each end.
        """
        now = time.monotonic()
        if self.code is None:
            if now - self._started_at > _STABLE_SECONDS:
                self._back_off = _FIRST_BACK_OFF
        elif self._start_at is None:
            wait, self._back_off = self._back_off, min(2 * self._back_off, _LAST_BACK_OFF)
            self._start_at = now + wait
            return f"the {self.name} process {self.ending}; starting it again in {wait:g} s (log: {self.log})"
        elif now >= self._start_at:
            self.start()
        return None

    def give_up_on(self, well: bool, seconds: float) -> None:
        """Kill it if it runs but was not `well` for that long. The next `start_again` says so."""
        now = time.monotonic()
        if well:
            self._well_at = now
        elif self._child is not None and self.code is None and now - self._well_at > seconds:
            self._given_up = f"did not answer for {seconds:g} s and was killed"
            self._child.kill()  # SIGTERM would wait for a stopped process to go on
            self._child.wait()

    @property
    def stopped(self) -> bool:
        """Whether a signal such as SIGSTOP holds it. False if the system cannot tell."""
        if self._child is None or self.code is not None or not hasattr(os, "waitid"):
            return False
        look = os.WSTOPPED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self._child.pid, look) is not None

    @property
    def code(self) -> int | None:
        """The exit status; None while it runs."""
        return None if self._child is None else self._child.poll()

    @property
    def ending(self) -> str:
        """How it ended, in words: its exit status, or the signal that killed it."""
        code = self.code
        if code is None:
            return "is running"
        if self._given_up is not None:
            return self._given_up
        if code >= 0:
            return f"ended with {code}"
        try:
            name = signal.Signals(-code).name
        except ValueError:  # a real-time signal
            name = f"signal {-code}"
        # SIGKILL leaves no word in the log, and the kernel sends it where memory runs out.
        return f"was killed by {name}" + (", perhaps for lack of memory" if name == "SIGKILL" else "")

    def terminate(self) -> None:
        if self._child is not None and self._child.poll() is None:
            self._child.terminate()

    def end(self) -> None:
        """Kill it if it still runs."""
        if self._child is None:
            return
        self._child.kill()
        self._child.wait()
        if self._child.stdin is not None:
            self._child.stdin.close()

    def last_words(self) -> str:
        """The last message of the log."""
        lines = (
            self.log.read_text(errors="replace", encoding="utf-8").strip().splitlines() if self.log.is_file() else []
        )
        for line in reversed(lines[-50:]):
            try:
                entry = json.loads(line)
            except ValueError:
                return line.strip()
            if isinstance(entry, dict) and entry.get("level") in ("error", "critical", "warning"):
                told = str(entry.get("exception") or entry.get("message", "")).strip().splitlines()
                if told and not told[-1].startswith("Application startup failed"):  # uvicorn's; the reason is above it
                    return told[-1]
        return "no message"


def _environment(settings: Settings) -> dict[str, str]:
    """The children's environment: what the command line decided, and threads that wait without spinning."""
    environment = dict(os.environ)
    environment["HEADMAP_DATA_DIR"] = str(settings.data_dir)
    environment["HEADMAP_MODELS"] = json.dumps(list(settings.models))
    environment["PYTHONUNBUFFERED"] = "1"
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # two processes share the cores
    environment.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    environment.setdefault("TOKENIZERS_PARALLELISM", "false")
    return environment
