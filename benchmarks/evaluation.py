"""What a curve costs: 3 methods at 4 shares of the prompt, against the full cache alone and against a run for each.

`selectors`: the same with 3 selectors.
"""

from __future__ import annotations

from statistics import median
from typing import Any

from benchmarks.accuracy import MAP_SEED, MAX_ANSWER_TOKENS, profile, questions_of
from benchmarks.report import Recorder, in_turn, ratios
from headmap.evaluation.cases import make_cases
from headmap.evaluation.metrics import get_metric
from headmap.evaluation.runner import evaluate_questions
from headmap.families.loading import load_model
from headmap.kvcache.select import SELECTORS
from headmap.models import find_model
from headmap.settings import DEMO_MODEL, Settings

METHODS = ("sparsemm", "snapkv", "adakv")


def run(*, record: Recorder, pages: int = 8, map_pages: int = 8, repeats: int = 3) -> dict[str, Any]:
    """Measure on `pages` held-out pages, up to four questions each; the three ways take turns."""
    loaded = load_model(find_model(DEMO_MODEL, Settings()))
    scores = profile(loaded, MAP_SEED, map_pages)
    questions, exact, cases = questions_of("lookup", pages), get_metric("exact"), make_cases(METHODS)
    record.begin("evaluation", {"model": loaded.info.revision, "questions": len(questions), "cases": len(cases)})

    def ask(*chosen: Any) -> object:
        return evaluate_questions(loaded, questions, chosen, scores, exact, max_new_tokens=MAX_ANSWER_TOKENS)

    seconds = in_turn(
        {
            "full": lambda: ask(cases[0]),
            "curve": lambda: ask(*cases),
            "selectors": lambda: ask(*make_cases(METHODS, selectors=tuple(SELECTORS))),
            "each": lambda: [ask(case) for case in cases],
        },
        repeats,
        warmup=1,
    )
    for name in ("curve", "selectors", "each"):
        row = {"way": name, "seconds": median(seconds[name]), **ratios(seconds, name, "full")}
        record.add(row, f"{name:9} {row['ratio']:.2f} times the full cache alone")
    return record.end()


if __name__ == "__main__":
    run(record=Recorder(None, print), repeats=2)
