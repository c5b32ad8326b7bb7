"""The permanent results of an evaluation: one row for each question in each case."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from headmap.evaluation.cases import FULL, Case
from headmap.evaluation.selectors import selector_from_json
from headmap.kvcache.select import SNAPKV, Select


@dataclass(frozen=True)
class AnswerRow:
    """One question answered in one case.

    `question_id`, `question`, `expected`: as the Question has them. `score`: the metric's mark, 0 to 1. `kept_tokens`,
    `kept_bytes`: of the prompt, over all layers and KV heads. `token_ms`: the median milliseconds of a decode step;
    None where other cases decoded in the same steps. `method`, `ratio`, `select`: as the Case has them.
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
    select: Select = SNAPKV

    @property
    def case(self) -> Case:
        return Case(self.method, self.ratio, self.select)

    def to_json(self) -> dict[str, Any]:
        """Return the row as plain data. `from_json` reads it back."""
        return {**asdict(self), "select": self.case.select_json}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> AnswerRow:
        read = {"expected": tuple(fields["expected"]), "select": selector_from_json(fields.get("select"))}
        return cls(**{**fields, **read})


def write_lines(rows: Iterable[AnswerRow]) -> bytes:
    """Write rows as JSON lines in UTF-8, each ended by a line feed. `read_lines` reads them back."""
    return b"".join(f"{json.dumps(row.to_json(), ensure_ascii=False)}\n".encode() for row in rows)


def read_lines(lines: bytes) -> Iterator[AnswerRow]:
    return (AnswerRow.from_json(json.loads(line)) for line in lines.splitlines())


def with_differences(rows: Iterable[AnswerRow]) -> Iterator[AnswerRow]:
    """Yield the answers that differ from the full cache's, each question's after the full cache's own.

    `rows`: question by question, each beginning with `full`.
    """
    full: AnswerRow | None = None
    told = False
    for row in rows:
        if row.method == FULL:
            full, told = row, False
        elif full is not None and row.answer != full.answer:
            if not told:
                yield full
            told = True
            yield row
