"""Run the inference service: `python -m services.inference --host 0.0.0.0 --port 8001`."""

from __future__ import annotations

import argparse
import logging
import os
import sys

from headmap.http.logs import setup_logging
from headmap.registry.migrations import start_fault
from headmap.settings import load_settings

logger = logging.getLogger("headmap.inference")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8001)
    arguments = parser.parse_args(argv)
    settings = load_settings()
    setup_logging(settings, "inference")
    if (fault := start_fault(settings)) is not None:
        logger.critical("%s", fault)
        return 1
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported: spinning threads starve others
    from headmap.engine.memory import give_back_freed_memory
    from headmap.http.server import serve
    from services.inference.http.app import create_app

    give_back_freed_memory()
    well = serve(create_app(settings), settings, host=arguments.host, port=arguments.port)
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
