"""The curve's answers are those of single requests, however prompts are packed, cut and bounded by memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from headmap.engine.greedy import generate_greedy
from headmap.errors import InvalidParameter, MapMismatch, NoMapForModel, PromptTooLong
from headmap.evaluation.answers import AnswerRow
from headmap.evaluation.cases import Case, make_cases
from headmap.evaluation.metrics import get_metric
from headmap.evaluation.questions import Question
from headmap.evaluation.runner import evaluate_questions, question_prompt
from headmap.families.loading import LoadedModel
from headmap.head_scores import HeadScores
from headmap.kvcache.methods import METHODS
from headmap.kvcache.planning import plan_cache
from headmap.kvcache.pool.paging import Paging
from headmap.kvcache.select import Select

CASES = make_cases(list(METHODS), [0.2, 0.5])
BY_SELECTOR = make_cases(["sparsemm", "adakv"], [0.2], ["snapkv", "last-query", Select(window=4, pool=3, mix=1.0)])
EXACT = get_metric("exact")
TOKENS = 6
QUESTIONS = [
    Question(f"q{n}", f"What is number {n}?", (Image.effect_noise((64 + 16 * n, 48), 90 + n).convert("RGB"),), ("7",))
    for n in range(3)
]


def scores_for(model: LoadedModel) -> HeadScores:
    layers, heads = model.info.num_layers, model.info.num_heads
    matrix = np.arange(layers * heads, dtype=float).reshape(layers, heads) ** 3
    return HeadScores(matrix, model.info.num_kv_heads)


def ask(
    model: LoadedModel, questions: list[Question] = QUESTIONS, cases: Sequence[Case] = CASES, **more: object
) -> list[AnswerRow]:
    return evaluate_questions(model, questions, cases, scores_for(model), EXACT, max_new_tokens=TOKENS, **more)


def untimed(rows: list[AnswerRow]) -> list[AnswerRow]:
    return [replace(row, token_ms=None) for row in rows]


@pytest.mark.parametrize("name", ["qwen2_vl", "llava_next_mistral", "internvl", "qwen2_vl_sliding"])
def test_every_answer_is_that_of_a_single_request(small_model: Callable[[str], LoadedModel], name: str) -> None:
    model = small_model(name)
    rows = ask(model)
    assert [(row.question_id, row.case) for row in rows] == [(one.id, case) for one in QUESTIONS for case in CASES]
    assert len({row.answer for row in rows}) > len(QUESTIONS)
    are_those_of_single_requests(model, rows)


def test_a_prompt_runs_once_for_all_selectors_and_each_has_its_own_answer(
    small_model: Callable[[str], LoadedModel],
) -> None:
    model = small_model("qwen2_vl")
    with prefills(model) as runs:
        rows = ask(model, QUESTIONS[:2], BY_SELECTOR)
    assert len(runs) == 1
    assert [row.case for row in rows] == [*BY_SELECTOR, *BY_SELECTOR]
    assert len({row.answer for row in rows if row.method == "sparsemm" and row.question_id == "q0"}) > 1
    are_those_of_single_requests(model, rows)


def test_a_text_may_be_sent_before_its_picture(small_model: Callable[[str], LoadedModel]) -> None:
    model = small_model("qwen2_vl")
    after, before = (question_prompt(model, replace(QUESTIONS[0], text_first=first)) for first in (False, True))
    assert before.image_starts > after.image_starts
    assert before.prompt_tokens == after.prompt_tokens


def are_those_of_single_requests(model: LoadedModel, rows: list[AnswerRow]) -> None:
    for row in rows:
        prompt = question_prompt(model, next(one for one in QUESTIONS if one.id == row.question_id))
        kv = row.case.kv
        (alone,) = generate_greedy(model, [prompt], max_new_tokens=TOKENS, kv=kv, scores=scores_for(model))
        assert row.answer == model.decode(alone), row
        plan = plan_cache(kv, model.cache_shape, prompt.prompt_tokens, scores_for(model))
        shared_out = plan.shared_out_by_prompt and not plan.keeps_all
        assert row.kept_tokens == plan.kept_tokens
        pages = Paging(model.cache_shape).sequence(plan, 0)
        assert row.kept_bytes <= pages * Paging(model.cache_shape).page_bytes
        assert shared_out or row.kept_bytes == pages * Paging(model.cache_shape).page_bytes


def test_slices_batches_and_memory_change_no_row(small_model: Callable[[str], LoadedModel]) -> None:
    model = small_model("qwen2_vl")
    whole = untimed(ask(model))
    assert untimed([*ask(model, QUESTIONS[:1]), *ask(model, QUESTIONS[1:])]) == whole
    assert untimed(ask(model, batch=2)) == whole
    seen: list[int] = []
    assert untimed(ask(model, memory_bytes=1, on_progress=seen.append)) == whole  # each sequence by itself
    assert seen == sorted(seen)
    assert seen[-1] == len(QUESTIONS)


def test_a_prompt_runs_once_for_all_cases(small_model: Callable[[str], LoadedModel]) -> None:
    model = small_model("qwen2_vl")
    with prefills(model) as runs:
        ask(model, batch=2)
    assert len(runs) == 2  # one for each batch


@contextmanager
def prefills(model: LoadedModel) -> Iterator[list[int]]:
    """Has an item for each prefill; decode steps run the text model alone."""
    runs: list[int] = []
    hook = model.model.model.register_forward_pre_hook(lambda *_: runs.append(1))
    try:
        yield runs
    finally:
        hook.remove()


def test_the_first_batch_is_timed_case_by_case(small_model: Callable[[str], LoadedModel]) -> None:
    model = replace(small_model("qwen2_vl"), eos_token_ids=frozenset())
    rows = ask(model, batch=2)
    assert all((row.token_ms is not None) == (row.question_id != "q2") for row in rows)
    first = {row.case: row.token_ms for row in rows if row.question_id == "q0"}
    assert {row.case: row.token_ms for row in rows if row.question_id == "q1"} == first


def test_progress_may_end_the_work(small_model: Callable[[str], LoadedModel]) -> None:
    def stop(done: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        ask(small_model("qwen2_vl"), on_progress=stop)


def test_what_cannot_be_asked_is_named(small_model: Callable[[str], LoadedModel]) -> None:
    model = small_model("qwen2_vl")

    def refused(scores: HeadScores | None, tokens: int = 1, metric: str = "exact") -> None:
        evaluate_questions(model, QUESTIONS, CASES, scores, get_metric(metric), max_new_tokens=tokens)

    with pytest.raises(NoMapForModel):
        refused(None)
    with pytest.raises(MapMismatch, match="do not fit a model of"):
        refused(scores_for(small_model("internvl")))
    with pytest.raises(InvalidParameter, match="max_new_tokens: must be at least 1, got 0"):
        refused(scores_for(model), 0)
    with pytest.raises(InvalidParameter, match=r"metric: 'vqa'.*'q0' has 1"):
        refused(scores_for(model), 1, "vqa")
    with pytest.raises(PromptTooLong, match=r"question 'q0' has .* tokens"):
        refused(scores_for(model), model.info.max_positions)
