"""The web process of the embedded cluster: `python -m services.embedded.web FD`, FD being its bound socket."""

from __future__ import annotations

import socket
import sys

from headmap.http.logs import setup_logging
from headmap.settings import load_settings
from services.embedded.lifeline import hold_lifeline


def main() -> int:
    settings = load_settings()
    setup_logging(settings, "headmap")
    hold_lifeline(settings.drain_seconds + 10)
    from headmap.engine.memory import give_back_freed_memory
    from headmap.http.server import serve
    from services.embedded.app import create_app  # torch: seconds, and by now an orphan would end

    give_back_freed_memory()
    bound = socket.socket(fileno=int(sys.argv[1]))
    well = serve(create_app(settings, url=own_url(bound)), settings, bound=bound)
    return 0 if well else 1


def own_url(bound: socket.socket) -> str:
    """The URL of the socket for this process itself: on loopback if it listens on every address."""
    host, port = bound.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  called, not bound
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


if __name__ == "__main__":
    sys.exit(main())
