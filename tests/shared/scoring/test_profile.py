"""Scores follow the paper, whatever the batch; a profiler sums them and tells how far it is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from headmap.families.loading import LoadedModel
from headmap.scoring.answers import token_texts
from headmap.scoring.pages import make_page
from headmap.scoring.profile import Profiler, score_pages
from headmap.scoring.visual_heads import page_hits, page_scores


def test_a_hit_is_worth_one_over_its_region() -> None:
    winners = np.array([[[5, 7, 9], [1, 1, 1]], [[6, 7, 8], [5, 9, 2]]])
    regions = [np.array([5, 6]), np.array([9]), np.array([7, 8, 9, 10])]
    hits = page_hits(winners, regions)
    assert hits.sum() == 6
    assert page_scores(hits, regions).tolist() == [[0.5 + 0.25, 0.0], [0.5 + 0.25, 0.5 + 1.0]]


def test_pages_are_scored_the_same_in_any_batch(small_model: Callable[[str], LoadedModel]) -> None:
    model = small_model("qwen2_vl")
    pages = [make_page(2, index) for index in range(3)]
    alone = [next(iter(score_pages(model, [page], max_new_tokens=12))) for page in pages]
    together = list(score_pages(model, pages, max_new_tokens=12, batch=3))
    for one, other in zip(alone, together, strict=True):
        assert (one.scores == other.scores).all()
        assert (one.tokens_seen, one.tokens_matched, one.hits) == (other.tokens_seen, other.tokens_matched, other.hits)


def test_a_profiler_sums_pages_and_reports_each(small_model: Callable[[str], LoadedModel]) -> None:
    loaded = small_model("qwen2_vl")
    profiler = Profiler(loaded, batch=2)
    done: list[int] = []
    pages = [make_page(3, index) for index in range(3)]
    whole, looks = profiler.score(pages, first=2, rule="paper", max_new_tokens=10, on_page=done.append)
    assert whole.pages == 3
    assert sorted(looks) == [2, 3]  # of a job's pages 0 to 3 only
    assert done[-1] == 3
    assert set(done) >= {1, 2, 3}
    parts = [
        profiler.score([page], first=2 + place, rule="paper", max_new_tokens=10, on_page=done.append)[0]
        for place, page in enumerate(pages)
    ]
    assert sum(part.tokens_seen for part in parts) == whole.tokens_seen
    np.testing.assert_allclose(sum(part.sums for part in parts), whole.sums)


def test_an_abort_from_the_callback_ends_the_work(small_model: Callable[[str], LoadedModel]) -> None:
    def abort(done: int) -> None:
        if done:  # a slow machine also tells of 0
            raise TimeoutError(f"after {done}")

    profiler = Profiler(small_model("qwen2_vl"))
    pages = (make_page(3, index) for index in range(3))
    with pytest.raises(TimeoutError, match="after 1"):
        profiler.score(pages, rule="aligned", max_new_tokens=4, on_page=abort)


def test_token_texts_put_the_answer_together(small_model: Callable[[str], LoadedModel]) -> None:
    loaded = small_model("qwen2_vl")
    ids = loaded.tokenizer("AB 1\n.")["input_ids"]
    assert token_texts(loaded, [*ids, 3]) == ["A", "B", " ", "1", "\n", ".", ""]
