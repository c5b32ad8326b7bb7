"""Replay finds what step-by-step decoding with eager attention finds, head by head; scores follow the paper."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

from headmap.families.loading import LoadedModel
from headmap.scoring import probe
from headmap.scoring.pages import make_page
from headmap.scoring.probe import replay
from headmap.scoring.profile import Profiler, score_pages, token_texts, transcription_prompt
from headmap.scoring.visual_heads import page_hits, page_scores


def slow_winners(loaded: LoadedModel, prompt: object, answer: list[int]) -> np.ndarray:
    """(layers, heads, tokens) by the plain way: eager attention, a token at a time, every row in full."""
    model = AutoModelForImageTextToText.from_pretrained(loaded.info.folder, attn_implementation="eager").eval()
    rows = []
    with torch.no_grad():
        output = model.model(**prompt.inputs, position_ids=prompt.position_ids, output_attentions=True, use_cache=True)
        for step, token in enumerate(answer):
            rows.append([layer[0, :, -1].argmax(-1).tolist() for layer in output.attentions])
            positions = loaded.family.decode_positions(torch.tensor([prompt.next_position + step]))
            output = model.model.language_model(
                input_ids=torch.tensor([[token]]),
                position_ids=positions,
                past_key_values=output.past_key_values,
                output_attentions=True,
                use_cache=True,
            )
    return np.array(rows).transpose(1, 2, 0)


@pytest.mark.parametrize("max_logits", [1, 1 << 24])
def test_replay_equals_step_by_step_eager_attention(
    any_model: LoadedModel, max_logits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "MAX_LOGITS", max_logits)  # a row at a time, and all at once
    prompt = transcription_prompt(any_model, make_page(1, 0))
    answer = torch.randint(5, 60, (9,), generator=torch.Generator().manual_seed(0)).tolist()
    picked = [0, 2, 3, 8]
    ours = replay(any_model, prompt, answer, picked)
    assert ours.shape == (any_model.info.num_layers, any_model.info.num_heads, 4)
    assert (ours == slow_winners(any_model, prompt, answer)[:, :, picked]).all()


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
    profiler = Profiler(loaded.info, device="cpu", batch=2)
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

    profiler = Profiler(small_model("qwen2_vl").info, device="cpu")
    pages = (make_page(3, index) for index in range(3))
    with pytest.raises(TimeoutError, match="after 1"):
        profiler.score(pages, rule="aligned", max_new_tokens=4, on_page=abort)


def test_token_texts_put_the_answer_together(small_model: Callable[[str], LoadedModel]) -> None:
    loaded = small_model("qwen2_vl")
    ids = loaded.tokenizer("AB 1\n.")["input_ids"]
    assert token_texts(loaded, [*ids, 3]) == ["A", "B", " ", "1", "\n", ".", ""]
