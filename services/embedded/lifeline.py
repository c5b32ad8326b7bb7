"""Children that end with their parent: their standard input is a pipe whose other end only the parent holds."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time


def hold_lifeline(grace_seconds: float) -> None:
    """End this process when its standard input is closed, which also happens when the parent is killed.

    It sends SIGTERM first, as the parent would, and kills after `grace_seconds`.
    """
    threading.Thread(target=_watch, args=(grace_seconds,), name="lifeline", daemon=True).start()


def _watch(grace_seconds: float) -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(grace_seconds)
    os._exit(1)
