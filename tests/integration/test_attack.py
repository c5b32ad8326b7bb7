"""The short form of `make attack`: live services hold while they are sent bodies that cost more than they look."""

from __future__ import annotations

from pathlib import Path

import pytest

from headmap.settings import Settings
from tests.attack import bodies
from tests.attack.live import Live, run

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


def test_no_body_holds_up_the_others_or_takes_the_memory(tmp_path: Path) -> None:
    # Other tests may share the cores. Unbounded, these bodies take seconds; `make attack` holds the limit itself.
    with Live(Settings(data_dir=tmp_path), most_health_ms=1000) as live:
        faults = run(live, [case for case in bodies.CASES if case.short], seed=0)
    assert faults == []
