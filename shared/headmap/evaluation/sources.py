"""Open question sets by name, and choose how many of their questions an evaluation asks."""

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
    """Open the questions of a dataset by name: a public set's folder or Hub id, or else a name for `open_pages`.

    Raises as `open_public_set` and `open_pages` do, and InvalidParameter for pages known to have no questions.
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
    """Return the number of questions to ask: `count`, else DEFAULT_QUESTIONS or all of a smaller set.

    Opens only the first question. Raises InvalidParameter for a set without questions, for a `count` above the set's
    known size, and if the metric does not fit the first question's answers.
    """
    first = next(questions.questions(seed, 0, 1), None)
    if first is None:
        raise InvalidParameter(f"dataset: {dataset!r} has no questions with answers", param="dataset")
    metric.check(first.answers, first.id)
    size = questions.size
    if count is not None and size is not None and count > size:
        raise InvalidParameter(f"questions: {dataset!r} has {size}, got {count}", param="questions")
    return count if count is not None else min(DEFAULT_QUESTIONS, size or DEFAULT_QUESTIONS)
