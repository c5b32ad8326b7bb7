"""The paper's rule on the bundled model: our map equals that of a plain, slow profiler."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

from benchmarks.plain import plain_page
from headmap.families.loading import load_model
from headmap.head_scores import HeadScores, compare
from headmap.models import find_model
from headmap.scoring.pages import make_page
from headmap.scoring.profile import score_pages
from headmap.settings import DEMO_MODEL, Settings

pytestmark = pytest.mark.slow
PAGES = 3


def test_rule_paper_equals_a_plain_loop_with_eager_attention() -> None:
    torch.set_num_threads(1)
    loaded = load_model(find_model(DEMO_MODEL, Settings()), device="cpu")
    eager = AutoModelForImageTextToText.from_pretrained(
        loaded.info.folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    pages = [make_page(21, index) for index in range(PAGES)]
    ours = list(score_pages(loaded, pages, rule="paper", max_new_tokens=200, batch=PAGES))
    plain = [plain_page(replace(loaded, model=eager), page, 200)[0] for page in pages]
    for page, expected in zip(ours, plain, strict=True):
        np.testing.assert_array_equal(page.scores, expected)
    assert sum(page.hits for page in ours) > 20


def test_a_few_heads_carry_the_reading_and_other_pages_say_the_same() -> None:
    torch.set_num_threads(1)
    loaded = load_model(find_model(DEMO_MODEL, Settings()), device="cpu")
    pages = [make_page(22, index) for index in range(2 * PAGES)]
    scored = [page.scores for page in score_pages(loaded, pages, max_new_tokens=200, batch=2 * PAGES)]
    maps = [HeadScores(np.sum(part, axis=0), loaded.info.num_kv_heads) for part in (scored[:PAGES], scored[PAGES:])]
    assert all(found.top_share(0.5) > 0.95 for found in maps)
    alike = compare(*maps)
    assert alike.spearman > 0.8
    assert alike.top10pct_overlap >= 0.5  # of 4 heads; ten of this model's score nearly the same
    assert alike.total_variation < 0.1
