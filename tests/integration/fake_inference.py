"""A real inference process whose model is made up: `python -m tests.integration.fake_inference --port PORT`.

Its engine holds every request after the first token, until one for a single token comes: then it fails them all and
ends, as an engine does whose device broke.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass

from headmap.engine.messages import EngineRequest, OnEvent
from headmap.errors import DeviceFailed
from headmap.http.logs import setup_logging
from headmap.http.server import serve
from headmap.settings import Settings
from services.inference.http.app import create_app
from tests.services.inference.fakes import FakeEngine, FakeModels, FakeStats


@dataclass
class MortalEngine(FakeEngine):
    hold: bool = True

    def submit(self, request: EngineRequest, on_event: OnEvent) -> None:
        if request.sampling.max_new_tokens == 1:
            self.fail = DeviceFailed("the device failed")
            self.current = FakeStats(alive=False)
            self.released.set()
        super().submit(request, on_event)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    settings = Settings()
    setup_logging(settings, "inference")
    app = create_app(settings, open_model=FakeModels(MortalEngine))
    return 0 if serve(app, settings, port=arguments.port) else 1


if __name__ == "__main__":
    sys.exit(main())
