"""The permanent results of an evaluation: one row for each question in each case."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from headmap.evaluation.cases import Case


@dataclass(frozen=True)
class AnswerRow:
    """One question answered in one case.

    `question_id`, `question`, `expected`: as the Question has them. `score`: the metric's mark, 0 to 1. `kept_tokens`,
    `kept_bytes`: of the prompt, over all layers and KV heads. `token_ms`: the median milliseconds of a decode step;
    None where other cases decoded in the same steps.
    """

    question_id: str
    method: str
    ratio: float
    question: str
    expected: tuple[str, ...]
    answer: str
    score: float
    prompt_tokens: int
    kept_tokens: int
    kept_bytes: int
    token_ms: float | None = None

    @property
    def case(self) -> Case:
        return Case(self.method, self.ratio)

    def to_json(self) -> dict[str, Any]:
        """Return the row as plain data. `from_json` reads it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> AnswerRow:
        return cls(**{**fields, "expected": tuple(fields["expected"])})
