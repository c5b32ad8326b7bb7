"""A scorer of evaluations without a model: made-up answers that depend on the question and the case alone."""

from __future__ import annotations

import time

from headmap.evaluation.answers import AnswerRow, write_lines
from headmap.evaluation.cases import Case
from headmap.evaluation.params import EvaluationParams
from headmap.jobs.work import OnPage, ShardResult, ShardSpec


class FakeEvaluator:
    """`pause`: seconds a question takes. `owner_ms`: what it takes a token, as this worker's machine has it."""

    def __init__(self, *, pause: float = 0.0, owner_ms: float = 3.0) -> None:
        self._pause, self._owner_ms = pause, owner_ms

    def __call__(self, spec: ShardSpec, on_page: OnPage) -> ShardResult:
        cases = EvaluationParams.from_json(spec.parameters).cases
        rows = []
        for number in range(spec.first, spec.first + spec.count):
            rows += [fake_answer(number, case, token_ms=self._owner_ms) for case in cases]
            time.sleep(self._pause)
            on_page(number + 1 - spec.first)
        return ShardResult(write_lines(rows))


def fake_answer(number: int, case: Case, *, token_ms: float | None = 3.0) -> AnswerRow:
    """`full` is wrong at every 10th question; a case of 0.1 and less at every 3rd too."""
    wrong = number % 10 == 9 or (case.ratio <= 0.1 and number % 3 == 1)
    return AnswerRow(
        question_id=f"{number}-0",
        method=case.method,
        ratio=case.ratio,
        question=f"What is number {number}?",
        expected=(f"ü{number}",),
        answer="?" if wrong else f"ü{number}",
        score=float(not wrong),
        prompt_tokens=100,
        kept_tokens=round(100 * case.ratio),
        kept_bytes=round(6400 * case.ratio),
        token_ms=token_ms,
        select=case.select,
    )
