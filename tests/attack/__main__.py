"""Run the attacks: `python -m tests.attack [--seed N] [--short] [--only WORD] [FILE ...]`; FILE as `bodies`.

Prints a line a case, and ends with status 1 where the services did not hold.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import tests.attack
from headmap.settings import Settings
from tests.attack.live import Case, Live, run


def cases_of(files: Iterable[str]) -> list[Case]:
    """The cases of these files; of all that have some where none is named."""
    names = list(files) or [module.name for module in pkgutil.iter_modules(tests.attack.__path__)]
    modules = [importlib.import_module(f"tests.attack.{name}") for name in names if name != "__main__"]
    return [case for module in modules for case in getattr(module, "CASES", ())]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", metavar="FILE")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--short", action="store_true", help="only the cases that the tests run")
    parser.add_argument("--only", default="", help="cases whose names hold this")
    arguments = parser.parse_args(argv)
    cases = [
        case
        for case in cases_of(arguments.files)
        if arguments.only in case.name and (case.short or not arguments.short)
    ]
    with (
        tempfile.TemporaryDirectory(prefix="headmap-attack-") as folder,
        Live(Settings(data_dir=Path(folder))) as live,
    ):
        faults = run(live, cases, arguments.seed)
    print(f"{len(cases)} cases, seed {arguments.seed}: {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
