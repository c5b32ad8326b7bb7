"""What a case of this folder is, for files whose cases start services of their own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True)
class Outcome:
    """`faults`: what should not be, in words; none where the services held."""

    told: str
    faults: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """`short`: part of the short form, which the tests run."""

    name: str
    run: Callable[[object, Random], Outcome]
    short: bool = False


def run_alone(cases: Sequence[Case], seed: int = 0) -> int:
    """Run each and print a line for it; 1 where something did not hold."""
    faults = 0
    for case in cases:
        outcome = case.run(None, Random(seed))
        print(f"{'FAULT' if outcome.faults else 'held '}  {case.name}: {outcome.told} {'; '.join(outcome.faults)}")
        sys.stdout.flush()
        faults += len(outcome.faults)
    return 1 if faults else 0
