"""Open question sets by name, and choose how many of their questions an evaluation asks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from headmap.datasets.sources import PageSource
from headmap.datasets.synthdog import SYNTHDOG
from headmap.errors import InvalidParameter
from headmap.evaluation.metrics import Metric, get_metric
from headmap.evaluation.public_sets import (
    SCHEMAS,
    find_hub_files,
    find_local_files,
    is_hub_id,
    known_schema,
    open_public_set,
)
from headmap.evaluation.questions import (
    PAGE_METRIC,
    SHORT_ANSWER_TOKENS,
    TRANSCRIPTION_TOKENS,
    PageQuestions,
    QuestionSet,
)

DEFAULT_QUESTIONS = 200

OpenPages = Callable[[str], PageSource]


def open_questions(dataset: str, metric: Metric | None, open_pages: OpenPages, *, max_pixels: int) -> QuestionSet:
    """Open the questions of a dataset: a public set's file or folder, or a name for `open_named_questions`.

    `open_pages` gets the name of any folder without parquet files.
    """
    if files := find_local_files(dataset):
        return open_public_set(dataset, files, max_pixels=max_pixels)
    if Path(dataset).expanduser().is_dir():
        return _page_questions(dataset, metric, open_pages)
    return open_named_questions(dataset, metric, open_pages, max_pixels=max_pixels)


def open_named_questions(dataset: str, metric: Metric | None, open_pages: OpenPages, *, max_pixels: int) -> QuestionSet:
    """Open the questions of a dataset by name: a public set's Hub id, or a name for `open_pages`. Reads no other path.

    Raises as `find_hub_files`, `open_public_set` and `open_pages` do, and InvalidParameter for pages known to have no
    questions.
    """
    if is_hub_id(dataset):
        return open_public_set(dataset, find_hub_files(dataset), max_pixels=max_pixels)
    return _page_questions(dataset, metric, open_pages)


def _page_questions(dataset: str, metric: Metric | None, open_pages: OpenPages) -> QuestionSet:
    _check_has_questions(dataset, metric)
    return PageQuestions(open_pages(dataset), transcribe=metric is not None and metric.transcribes)


def choose_marking(dataset: str, metric: Metric | None) -> tuple[Metric, int]:
    """Choose the metric and the most tokens of an answer for a named dataset, as opening it would, without its files.

    `metric`: the caller's choice. Raises InvalidParameter for a public set of an unknown repository without one, for
    pages known to have no questions, and if the metric does not fit the questions of pages.
    """
    if is_hub_id(dataset):
        schema = known_schema(dataset)
        if metric is None and schema is None:
            known = ", ".join(one.repo for one in SCHEMAS)
            raise InvalidParameter(f"metric: {dataset!r} is none of {known}, so name one", param="metric")
        named, most = (PAGE_METRIC, SHORT_ANSWER_TOKENS) if schema is None else (schema.metric, schema.max_new_tokens)
        return metric or get_metric(named), most
    _check_has_questions(dataset, metric)
    chosen = metric or get_metric(PAGE_METRIC)
    chosen.check(("",), "0-0")  # each question of a page has one right answer
    return chosen, TRANSCRIPTION_TOKENS if chosen.transcribes else SHORT_ANSWER_TOKENS


def _check_has_questions(dataset: str, metric: Metric | None) -> None:
    if dataset == SYNTHDOG and not (metric is not None and metric.transcribes):
        raise InvalidParameter(
            f"dataset: {dataset!r} has no questions; with metric cer or wer its text is asked for", param="dataset"
        )


def take_questions(
    questions: QuestionSet,
    dataset: str,
    metric: Metric,
    *,
    count: int | None,
    seed: int = 0,
) -> int:
    """Return the number of questions to ask: `count`, else DEFAULT_QUESTIONS or all of a smaller set.

    Opens only the first question. Raises InvalidParameter for a set without questions, for a `count` above the set's
    known size, and if the metric does not fit the first question's answers.
    """
    first = next(questions.questions(seed, 0, 1), None)
    if first is None:
        raise _without_questions(dataset)
    metric.check(first.answers, first.id)
    return fit_count(dataset, count, questions.size)


def fit_count(dataset: str, count: int | None, size: int | None) -> int:
    """Return the number of questions to ask: `count`, else DEFAULT_QUESTIONS or all of a smaller set.

    `size`: the number of the set's questions, if known. Raises InvalidParameter for a set without questions, and for a
    `count` above its size.
    """
    if size == 0:
        raise _without_questions(dataset)
    if count is not None and size is not None and count > size:
        raise InvalidParameter(f"questions: {dataset!r} has {size}, got {count}", param="questions")
    return count if count is not None else min(DEFAULT_QUESTIONS, size or DEFAULT_QUESTIONS)


def _without_questions(dataset: str) -> InvalidParameter:
    return InvalidParameter(f"dataset: {dataset!r} has no questions with answers", param="dataset")
