"""Sampling: bounds, seeds, cuts; text comes whole."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headmap.engine.detokenizer import TextStream
from headmap.engine.sampling.params import Sampler, SamplingParams
from headmap.errors import InvalidParameter
from headmap.families.loading import LoadedModel

LOGITS = torch.tensor([0.0, 3.0, 2.9, -1.0, 1.0])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_new_tokens", -1), ("temperature", 0.0), ("temperature", float("nan")), ("temperature", float("inf")),
        ("top_p", 0.0), ("top_p", 1.1), ("top_k", -1), ("repetition_penalty", 0.0), ("seed", -1), ("seed", 2**63),
        ("stop", ("a", "")),
    ],
)  # fmt: skip
def test_a_bad_value_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(InvalidParameter) as caught:
        SamplingParams(**{field: value})
    assert caught.value.param == field


def test_greedy_takes_the_highest() -> None:
    assert Sampler(SamplingParams(), []).choose(LOGITS) == 1


def test_the_same_seed_draws_the_same_tokens() -> None:
    params = SamplingParams(do_sample=True, seed=5)
    first, again = (Sampler(params, []) for _ in "ab")
    assert [first.choose(LOGITS) for _ in range(20)] == [again.choose(LOGITS) for _ in range(20)]


@pytest.mark.parametrize(
    ("params", "allowed"),
    [({"top_k": 2}, {1, 2}), ({"top_p": 0.4}, {1}), ({"top_p": 0.6}, {1, 2}), ({"temperature": 1e-3}, {1})],
)
def test_cuts_leave_only_the_likely(params: dict[str, float], allowed: set[int]) -> None:
    sampler = Sampler(SamplingParams(do_sample=True, seed=0, **params), [])
    assert {sampler.choose(LOGITS) for _ in range(60)} == allowed


def test_draws_follow_the_probabilities() -> None:
    sampler = Sampler(SamplingParams(do_sample=True, seed=1), [])
    draws = torch.tensor([sampler.choose(LOGITS) for _ in range(4000)]).bincount(minlength=5) / 4000
    torch.testing.assert_close(draws, LOGITS.softmax(-1), atol=0.03, rtol=0)


def test_repetition_penalty_counts_the_prompt_and_what_was_said() -> None:
    sampler = Sampler(SamplingParams(repetition_penalty=2.0), [1])
    assert sampler.choose(LOGITS) == 2
    assert sampler.choose(LOGITS) == 1  # 2.9 / 2 now lies below 3.0 / 2


@settings(deadline=None)  # the first example loads the model
@given(text=st.text("ABC:12 \n", max_size=40), stop=st.lists(st.text("ABC:12 ", min_size=1, max_size=4), max_size=3))
def test_streamed_text_adds_up_and_ends_before_the_first_stop(
    small_model: Callable[[str], LoadedModel], text: str, stop: list[str]
) -> None:
    tokenizer = small_model("qwen2_vl").tokenizer
    stream = TextStream(tokenizer, stop)
    sent = ""
    for token in tokenizer(text)["input_ids"]:
        sent += stream.push(token)
        if stream.stopped:
            break
    sent += stream.finish()
    places = [place for s in stop if (place := text.find(s)) >= 0]
    assert stream.text == sent
    assert stream.stopped == bool(places)
    # a longer stop string that starts earlier may come complete only after a shorter one has stopped the stream
    assert text.startswith(sent)
    assert not any(s in sent for s in stop)
    if not places:
        assert sent == text
