"""For files whose cases start services of their own: their cases, run alone."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from tests.attack.live import Case as Case
from tests.attack.live import Outcome as Outcome


def run_alone(cases: Sequence[Case], seed: int = 0) -> int:
    """Run each and print a line for it; 1 where something did not hold."""
    faults = 0
    for case in cases:
        run: Callable[[Any, Random], Outcome] = case.run
        outcome = run(None, Random(seed))
        print(f"{'FAULT' if outcome.faults else 'held '}  {case.name}: {outcome.told} {'; '.join(outcome.faults)}")
        sys.stdout.flush()
        faults += len(outcome.faults)
    return 1 if faults else 0
