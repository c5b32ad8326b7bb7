"""The paper's rule on the bundled model: our map equals that of a plain, slow profiler."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

from benchmarks.scoring import plain_scores
from headmap.families.loading import load_model
from headmap.head_scores import HeadScores
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
    plain = [plain_scores(loaded, eager, page, 200) for page in pages]
    for page, expected in zip(ours, plain, strict=True):
        np.testing.assert_array_equal(page.scores, expected)
    assert sum(page.hits for page in ours) > 20


def test_a_few_heads_carry_the_reading() -> None:
    torch.set_num_threads(1)
    loaded = load_model(find_model(DEMO_MODEL, Settings()), device="cpu")
    pages = [make_page(22, index) for index in range(PAGES)]
    total = sum(page.scores for page in score_pages(loaded, pages, max_new_tokens=200, batch=PAGES))
    scores = HeadScores(np.asarray(total), loaded.info.num_kv_heads)
    assert scores.top_share(0.5) > 0.95
