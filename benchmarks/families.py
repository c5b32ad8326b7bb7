"""Which family passes which tests, run and counted. `python -m benchmarks.families` fills docs/families.md.

Needs the repository with its tests, and pytest.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.render import main as render
from benchmarks.report import RESULTS, document, save

ROOT = Path(__file__).parents[1]
TESTS = ("tests/shared/families", "tests/services/embedded/test_families.py")

# test -> what it shows
CHECKS = {
    "test_a_prompt_is_the_processors_own": "prompt",
    "test_pixtral_writes_a_break_after_each_row_and_an_end_after_the_last": "prompt",
    "test_a_changed_cell_moves_its_token_alone": "geometry",
    "test_every_cell_of_the_page_is_in_some_region": "geometry",
    "test_tokens_in_the_prompt_are_the_pictures_own": "geometry",
    "test_a_tokens_cell_leads_back_to_the_token": "geometry",
    "test_full_equals_transformers_own_generation": "parity",
    "test_transformers_generate_takes_our_cache": "parity",
    "test_batched_equals_alone": "batch",
    "test_a_further_turn_takes_its_own_pictures_along": "several",
    "test_sliding_layers_hold_their_window_and_no_more": "sliding",
    "test_reading_equals_step_by_step_eager_attention": "scoring",
    "test_a_profiler_scores_pages_of_it": "scoring",
    "test_a_family_is_profiled_and_served": "services",
}


class Outcomes:
    """A pytest plugin that notes the outcome of every test that is about one model of `names`."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self.rows: dict[str, dict[str, dict[str, int]]] = {name: {} for name in names}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        test, _, rest = report.nodeid.rpartition("::")[2].partition("[")
        parts = rest.rstrip("]").split("-")
        found = [name for name in self.names if name in parts]
        if len(found) != 1 or test not in CHECKS or (report.when != "call" and report.passed):
            return
        checks = [CHECKS[test], *(["several"] if {"several", "second", "2"} & set(parts) else [])]
        for check in checks:
            count = self.rows[found[0]].setdefault(check, {"passed": 0, "failed": 0, "skipped": 0})
            count[report.outcome] += 1


def run() -> dict[str, Any]:
    """Run the tests. A row per small model: by check, how many tests passed, failed and were skipped."""
    from tests.models import FAMILIES

    outcomes = Outcomes(tuple(FAMILIES))
    pytest.main(["-q", "--no-header", *(str(ROOT / path) for path in TESTS)], plugins=[outcomes])
    rows = [{"model": name, "checks": checks} for name, checks in outcomes.rows.items()]
    return document("families", {"tests": list(TESTS)}, rows)


def main() -> int:
    result = run()
    save(result, RESULTS / "families.json")
    render()
    return int(any(count["failed"] for row in result["rows"] for count in row["checks"].values()))


if __name__ == "__main__":
    sys.exit(main())
