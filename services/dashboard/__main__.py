"""Run the dashboard: `python -m services.dashboard --api http://gateway:8080 --service http://inference:8000 ...`."""

from __future__ import annotations

import argparse
import sys

from headmap.http.logs import setup_logging
from headmap.http.server import serve
from headmap.settings import load_settings
from services.dashboard.app import create_app
from services.dashboard.state import Addresses


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--api", default="http://127.0.0.1:8000", help="takes every call of the REST APIs")
    parser.add_argument(
        "--service", action="append", help="asked how it is, at each address of its host; may be repeated [--api]"
    )
    arguments = parser.parse_args(argv)
    settings = load_settings()
    setup_logging(settings, "dashboard")
    addresses = Addresses(arguments.api.rstrip("/"), tuple(arguments.service or [arguments.api]))
    well = serve(create_app(settings, addresses), settings, host=arguments.host, port=arguments.port)
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
