"""Run the scoring API: `python -m services.scoring --host 0.0.0.0 --port 8000`."""

from __future__ import annotations

import argparse
import logging
import sys

from headmap.http.logs import setup_logging
from headmap.http.server import serve
from headmap.registry.migrations import start_fault
from headmap.settings import load_settings
from services.scoring.app import create_app

logger = logging.getLogger("headmap.scoring")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    arguments = parser.parse_args(argv)
    settings = load_settings()
    setup_logging(settings, "scoring")
    if (fault := start_fault(settings)) is not None:
        logger.critical("%s", fault)
        return 1
    well = serve(create_app(settings), settings, host=arguments.host, port=arguments.port)
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
