"""Looks at /health/live at a steady beat until standard input ends, then tells how many milliseconds each look took.

Usage: `python -m tests.attack.watch URL SECONDS`. A line says that the first look was answered.
"""

from __future__ import annotations

import http.client
import json
import select
import sys
import time
from urllib.parse import urlsplit


def main(url: str, every: float) -> None:
    address = urlsplit(url)
    took: list[float] = []
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
    _look(connection)
    print("looking", flush=True)
    while not select.select([sys.stdin], [], [], every)[0]:
        started = time.perf_counter()
        _look(connection)
        took.append((time.perf_counter() - started) * 1000)
    print(json.dumps(took))


def _look(connection: http.client.HTTPConnection) -> None:
    try:
        connection.request("GET", "/health/live")
        connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        connection.close()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
