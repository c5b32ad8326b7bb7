"""Question sets by name, and how many of their questions an evaluation asks."""

from __future__ import annotations

from collections.abc import Callable

from headmap.datasets.sources import PageSource
from headmap.datasets.synthdog import SYNTHDOG
from headmap.errors import InvalidParameter
from headmap.evaluation.metrics.base import Metric
from headmap.evaluation.public_sets import find_public_files, open_public_set
from headmap.evaluation.questions import PageQuestions, QuestionSet

DEFAULT_QUESTIONS = 200


def open_questions(
    dataset: str, metric: Metric | None, open_pages: Callable[[str], PageSource], *, max_pixels: int
) -> QuestionSet:
    """The questions of a dataset by its name: a public set's folder or Hub id, or else what `open_pages` opens.

    Raises as `open_public_set` and `open_pages` do, and InvalidParameter for pages that are known to have none.
    """
    if (files := find_public_files(dataset)) is not None:
        return open_public_set(dataset, files, max_pixels=max_pixels)
    transcribe = metric is not None and metric.transcribes
    if dataset == SYNTHDOG and not transcribe:
        raise InvalidParameter(
            f"dataset: {dataset!r} has no questions; with metric cer or wer its text is asked for", param="dataset"
        )
    return PageQuestions(open_pages(dataset), transcribe=transcribe)


def take_questions(
    questions: QuestionSet,
    dataset: str,
    metric: Metric,
    *,
    count: int | None,
    seed: int = 0,
) -> int:
    """How many questions an evaluation asks: `count`, else DEFAULT_QUESTIONS or all of a smaller set.

    Opens the first question only. Raises InvalidParameter for a set without questions, for more of them than there are
    where that is known, and where the metric does not fit the first one's answers.
    """
    first = next(questions.questions(seed, 0, 1), None)
    if first is None:
        raise InvalidParameter(f"dataset: {dataset!r} has no questions with answers", param="dataset")
    metric.check(first.answers, first.id)
    size = questions.size
    if count is not None and size is not None and count > size:
        raise InvalidParameter(f"questions: {dataset!r} has {size}, got {count}", param="questions")
    return count if count is not None else min(DEFAULT_QUESTIONS, size or DEFAULT_QUESTIONS)
