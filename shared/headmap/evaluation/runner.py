"""Ask a model questions at several methods and budgets: each prompt runs once, and every budget selects from it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

from headmap.engine.greedy import Answering, begin_greedy, finish_greedy
from headmap.engine.memory import spare_memory
from headmap.engine.runner import ModelRunner
from headmap.errors import InvalidParameter, PromptTooLong
from headmap.evaluation.answers import AnswerRow
from headmap.evaluation.cases import Case
from headmap.evaluation.metrics.base import Metric
from headmap.evaluation.questions import Question
from headmap.families.base import PreparedPrompt
from headmap.families.loading import LoadedModel
from headmap.head_scores import HeadScores
from headmap.kvcache.plan import KeepPlan
from headmap.kvcache.planning import plan_cache
from headmap.kvcache.pool.paging import Paging
from headmap.kvcache.transformers.cache import RaggedCache

BATCH = 8
"""Questions whose answers are decoded together."""

PACKED_TOKENS = 2048
"""Most tokens of prompts that are prefilled in one row; a longer prompt has a row of its own."""

OnProgress = Callable[[int], None]


def evaluate_questions(
    loaded: LoadedModel,
    questions: Iterable[Question],
    cases: Sequence[Case],
    scores: HeadScores | None,
    metric: Metric,
    on_progress: OnProgress = lambda done: None,
    *,
    max_new_tokens: int,
    batch: int = BATCH,
    memory_bytes: int | None = None,
) -> list[AnswerRow]:
    """Answer every question in every case with greedy decoding. Returns one row for each, question by question.

    A slice of a question set gives the same rows as the whole set, in any process. Questions are opened when they are
    needed, `batch` at a time. `scores`: the model's scores, for methods that need them. `memory_bytes`: the limit for
    keys and values, by default the machine's free memory. If a batch's cases do not fit together, its prompts run again
    for the remaining cases.

    In the first batch each case decodes alone, to measure its time. In later batches all cases decode together.

    `on_progress(done)` gets the number of questions done, after each step and before each layer of a prefill. It may
    raise to end the work. Raises as `plan_cache` and `Metric.check` do, InvalidParameter for an answer without tokens,
    PromptTooLong for a question beyond the model's context, and OutOfMemory.
    """
    if max_new_tokens < 1:
        raise InvalidParameter(f"max_new_tokens: must be at least 1, got {max_new_tokens}", param="max_new_tokens")
    room = spare_memory(loaded.device) if memory_bytes is None else memory_bytes
    rows: list[AnswerRow] = []
    done = 0
    for group in _batches(loaded, questions, metric, max_new_tokens, batch):
        asked = _Asked(loaded, group, cases, scores, metric, max_new_tokens, timed=not rows)
        for part in asked.parts(room):
            asked.answer(part, partial(on_progress, done))
        rows += asked.rows()
        done += len(group)
        on_progress(done)
    return rows


@dataclass(frozen=True)
class _Prepared:
    question: Question
    prompt: PreparedPrompt


def question_prompt(loaded: LoadedModel, question: Question) -> PreparedPrompt:
    """Build the prompt: the question's pictures and its text, as one user turn."""
    pictures, text = [{"type": "image"}] * len(question.pictures), [{"type": "text", "text": question.text}]
    content = text + pictures if question.text_first else pictures + text
    return loaded.prepare([{"role": "user", "content": content}], question.pictures)


def _batches(
    loaded: LoadedModel, questions: Iterable[Question], metric: Metric, max_new_tokens: int, size: int
) -> Iterator[list[_Prepared]]:
    """Check and prepare the questions, `size` at a time."""
    group: list[_Prepared] = []
    for question in questions:
        metric.check(question.answers, question.id)
        prompt = question_prompt(loaded, question)
        if prompt.prompt_tokens + max_new_tokens > loaded.info.max_positions:
            raise PromptTooLong(
                f"dataset: question {question.id!r} has {prompt.prompt_tokens} tokens, and with {max_new_tokens} of an "
                f"answer it is above the model's context of {loaded.info.max_positions}",
                param="dataset",
            )
        group.append(_Prepared(question, prompt))
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


_Place = tuple[int, int]
"""A sequence of a batch: the number of its question, and of its case."""


class _Asked:
    """A batch of questions that is being answered in all cases."""

    def __init__(
        self,
        loaded: LoadedModel,
        group: Sequence[_Prepared],
        cases: Sequence[Case],
        scores: HeadScores | None,
        metric: Metric,
        max_new_tokens: int,
        *,
        timed: bool,
    ) -> None:
        self._loaded, self._group, self._cases = loaded, group, cases
        self._metric, self._max_new_tokens, self._timed = metric, max_new_tokens, timed
        self._plans: dict[_Place, KeepPlan] = {
            (number, place): plan_cache(case.kv, loaded.cache_shape, one.prompt.prompt_tokens, scores)
            for number, one in enumerate(group)
            for place, case in enumerate(cases)
        }
        self._rows: dict[_Place, AnswerRow] = {}

    def parts(self, memory_bytes: int) -> Iterator[list[_Place]]:
        """Split the batch's sequences into parts that fit into memory. A sequence too large to fit is its own part."""
        paging = Paging(self._loaded.cache_shape)
        part: list[_Place] = []
        held = 0
        for place, plan in self._plans.items():
            needed = paging.sequence(plan, self._max_new_tokens) * paging.page_bytes
            if part and held + needed > memory_bytes:
                yield part
                part, held = [], 0
            part.append(place)
            held += needed
        if part:
            yield part

    def answer(self, part: Sequence[_Place], on_step: Callable[[], None]) -> None:
        """Run some of the batch's sequences to their end."""
        loaded = self._loaded
        plans = [self._plans[place] for place in part]
        cache = RaggedCache.for_plans(
            plans, self._max_new_tokens, loaded.cache_shape, dtype=loaded.model.dtype, device=loaded.device
        )
        runner = ModelRunner(loaded, cache)
        numbers = sorted({number for number, _ in part})
        begun: dict[_Place, Answering] = {}
        for row in self._packed(numbers):
            places = [[place for place in part if place[0] == number] for number in row]
            started = begin_greedy(
                runner,
                [self._group[number].prompt for number in row],
                [[self._plans[place] for place in own] for own in places],
                self._max_new_tokens,
                on_step,
            )
            for own, sequences in zip(places, started, strict=True):
                begun |= zip(own, sequences, strict=True)
        together: dict[int, list[_Place]] = {}
        for place in part:
            together.setdefault(place[1] if self._timed else 0, []).append(place)
        for own in together.values():
            steps = _StepTimes(on_step)
            finish_greedy(runner, [begun[place] for place in own], self._max_new_tokens, steps)
            for place in own:
                self._rows[place] = self._row(place, begun[place], steps.median_ms if self._timed else None)

    def rows(self) -> list[AnswerRow]:
        """Return all rows, question by question."""
        return [self._rows[place] for place in self._plans]

    def _packed(self, numbers: Sequence[int]) -> Iterator[list[int]]:
        """Group questions whose prompts are prefilled in one row."""
        row: list[int] = []
        tokens = 0
        for number in numbers:
            prompt = self._group[number].prompt
            packs = self._loaded.family.packs(prompt)
            if row and (not packs or tokens + prompt.prompt_tokens > PACKED_TOKENS):
                yield row
                row, tokens = [], 0
            row.append(number)
            tokens += prompt.prompt_tokens if packs else PACKED_TOKENS
        if row:
            yield row

    def _row(self, place: _Place, sequence: Answering, token_ms: float | None) -> AnswerRow:
        question, case = self._group[place[0]].question, self._cases[place[1]]
        answer = self._loaded.decode(sequence.tokens)
        return AnswerRow(
            question_id=question.id,
            method=case.method,
            ratio=case.ratio,
            question=question.text,
            expected=question.answers,
            answer=answer,
            score=self._metric.score(answer, question.answers),
            prompt_tokens=sequence.prompt.prompt_tokens,
            kept_tokens=sequence.kept_tokens,
            kept_bytes=sequence.kept_bytes,
            token_ms=token_ms,
            select=case.select,
        )


class _StepTimes:
    """A callback after each step. It notes the step's duration, and passes the call on."""

    def __init__(self, on_step: Callable[[], None]) -> None:
        self._on_step = on_step
        self._began: float | None = None
        self._seconds: list[float] = []

    def __call__(self) -> None:
        now = time.perf_counter()
        if self._began is not None:
            self._seconds.append(now - self._began)
        self._on_step()
        self._began = time.perf_counter()

    @property
    def median_ms(self) -> float | None:
        return median(self._seconds) * 1e3 if self._seconds else None
