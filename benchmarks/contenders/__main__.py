"""`python -m benchmarks.contenders '<case as JSON>'`: measures it, and prints one line of JSON."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version

from benchmarks.contenders.case import Case
from benchmarks.contenders.measure import KVPRESS, find, load, measure
from benchmarks.shapes import weights_sum


def main(text: str) -> int:
    case = Case.from_json(text)
    open_contender = find(case.contender)
    model = load(case)
    found = measure(model, case, open_contender)
    packages = ("torch", "transformers", *(("kvpress",) if case.contender in KVPRESS else ()))
    found |= {"versions": {name: version(name) for name in packages}, "weights_sum": weights_sum(model)}
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
