"""The web process of the embedded cluster: `python -m services.embedded.web FD`, FD being its bound socket."""

from __future__ import annotations

import socket
import sys

from headmap.http.logs import setup_logging
from headmap.settings import Settings
from services.embedded.lifeline import hold_lifeline


def main() -> int:
    settings = Settings()
    setup_logging(settings, "headmap")
    hold_lifeline(settings.drain_seconds + 10)
    from headmap.http.server import serve
    from services.embedded.app import create_app  # torch: seconds, and by now an orphan would end

    started = serve(create_app(settings), settings, bound=socket.socket(fileno=int(sys.argv[1])))
    return 0 if started else 1


if __name__ == "__main__":
    sys.exit(main())
