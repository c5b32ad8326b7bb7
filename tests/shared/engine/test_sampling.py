"""The sampler: what may be asked, seeds, batches of all kinds; text comes whole."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headmap.engine.detokenizer import TextStream
from headmap.engine.sampling.params import SamplingParams
from headmap.engine.sampling.request_state import RequestState
from headmap.engine.sampling.sampler import sample
from headmap.errors import InvalidParameter
from headmap.families.loading import LoadedModel
from tests.shared.engine.sampling_logits import random_logits

LOGITS = torch.tensor([0.0, 3.0, 2.9, -1.0, 1.0])
# One of each way to choose, and of what changes logits
WAYS = (
    SamplingParams(),
    SamplingParams(do_sample=True, temperature=0.7, seed=-3),
    SamplingParams(do_sample=True, min_p=0.05, seed=4),
    SamplingParams(do_sample=True, top_k=20, seed=5),
    SamplingParams(do_sample=True, top_p=0.8, temperature=1.5, seed=6),
    SamplingParams(do_sample=True, top_p=0.95, temperature=9.0, seed=6),
    SamplingParams(repetition_penalty=1.3, presence_penalty=0.5, frequency_penalty=-0.5, logit_bias={7: 2.5}),
    SamplingParams(do_sample=True, seed=2**63 - 1, top_logprobs=3, min_tokens=5, stop_token_ids=frozenset({1, 2})),
)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_new_tokens", -1), ("temperature", 0.0), ("temperature", float("nan")), ("temperature", float("inf")),
        ("top_p", 0.0), ("top_p", 1.1), ("top_k", -1), ("min_p", -0.1), ("min_p", 1.1), ("repetition_penalty", 0.0),
        ("presence_penalty", 2.1), ("frequency_penalty", -2.1), ("logit_bias", {3: 101}), ("logit_bias", {-1: 0}),
        ("logit_bias", {3: float("nan")}), ("stop_token_ids", frozenset({-1})), ("min_tokens", -1),
        ("min_tokens", 129), ("top_logprobs", -1), ("seed", -(2**63) - 1), ("seed", 2**63), ("stop", ("a", "")),
    ],
)  # fmt: skip
def test_a_bad_value_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(InvalidParameter) as caught:
        SamplingParams(**{field: value})
    assert caught.value.param == field


@pytest.mark.parametrize("field", ["temperature", "top_p"])
@pytest.mark.parametrize("value", [1e-7, 1e-38, 1e-45, 1e-300, 5e-324])
def test_next_to_nothing_is_greedy(field: str, value: float) -> None:
    params = SamplingParams(do_sample=True, **{field: value})
    assert params.greedy
    logits = torch.tensor([[1.0, 2.0, 2.0, 0.0]])
    assert sample(logits, [RequestState(params)]).tokens.tolist() == [1]


@pytest.mark.parametrize("temperature", [2e-7, 1e-4, 1.0, 1e30, 1e300])
def test_no_temperature_overflows(temperature: float) -> None:
    params = SamplingParams(do_sample=True, temperature=temperature, logit_bias={0: -100})
    logits = torch.tensor([[-3e38, 3e38, -torch.inf, 3e38]])
    states = [RequestState(SamplingParams(**{**vars(params), "seed": seed})) for seed in range(40)]
    drawn = set(sample(logits.repeat(40, 1), states).tokens.tolist())
    assert {1, 3} <= drawn <= {0, 1, 3}


@pytest.mark.parametrize("vocab", [1, 5, 1023, 1024, 1025, 3000])
def test_greedy_is_argmax(vocab: int) -> None:
    logits = random_logits(9, vocab).round(decimals=1)  # with ties
    expected = logits.argmax(-1).tolist()
    assert sample(logits, [RequestState(SamplingParams())] * 9).tokens.tolist() == expected


def answer(params: SamplingParams, logits: torch.Tensor, others: list[SamplingParams], place: int) -> list[int]:
    """A request's tokens among others. `logits`: (steps, vocab), its own at each step."""
    noise = random_logits(len(others) + 1, logits.shape[1], seed=place)
    states = [RequestState(one, [3, 7]) for one in others]
    states.insert(place, state := RequestState(params, [3, 7]))
    tokens = []
    for own in logits:
        batch = noise.clone()
        batch[place] = own
        chosen = sample(batch, states).tokens.tolist()
        tokens.append(chosen[place])
        for one, token in zip(states, chosen, strict=True):
            one.take(token)
    assert state.generated == len(tokens)
    return tokens


@pytest.mark.parametrize("params", WAYS)
def test_a_seed_gives_the_same_text_whatever_else_runs(params: SamplingParams) -> None:
    logits = random_logits(12, 2500, seed=1)
    alone = answer(params, logits, [], 0)
    assert answer(params, logits, list(WAYS), 3) == alone
    assert answer(params, logits, [*reversed(WAYS), *WAYS], 0) == alone
    assert answer(params, logits, [params] * 5, 5) == alone


@pytest.mark.parametrize("params", WAYS)
def test_a_state_made_again_goes_on_as_the_first(params: SamplingParams) -> None:
    logits = random_logits(10, 300, seed=2)
    tokens = answer(params, logits, [], 0)
    again = RequestState(params, [3, 7])
    for token in tokens[:6]:
        again.take(token)
    for own, token in zip(logits[6:], tokens[6:], strict=True):
        assert sample(own[None].clone(), [again]).tokens.tolist() == [token]
        again.take(token)


@given(seed=st.integers(-(2**63), 2**63 - 1), number=st.integers(0, 2**20))
def test_a_random_number_depends_on_seed_and_place(seed: int, number: int) -> None:
    def uniform(seed: int, number: int) -> float:
        state = RequestState(SamplingParams(seed=seed))
        state.generated = number
        return state.uniform()

    assert uniform(seed, number) == uniform(seed, number)
    assert 0 <= uniform(seed, number) < 1
    assert uniform(seed, number) != uniform(seed, number + 1)
    assert uniform(seed, number) != uniform(seed ^ 1, number)


def test_log_probabilities_are_the_models_own_and_only_of_who_asked() -> None:
    logits = random_logits(4, 2000)
    expected = logits.double().log_softmax(-1)
    bias = {5: 100.0}
    states = [
        RequestState(SamplingParams(top_logprobs=top, logit_bias=bias, do_sample=top == 2, temperature=0.3, top_k=40))
        for top in (None, 0, 2, 4)
    ]
    sampled = sample(logits, states)
    assert sampled.tokens.tolist() == [5] * 4
    assert sorted(sampled.log_probabilities) == [1, 2, 3]
    for row, top in ((1, 0), (2, 2), (3, 4)):
        told = sampled.log_probabilities[row]
        assert told.token == pytest.approx(float(expected[row, 5]), abs=1e-5)
        best = expected[row].topk(top)
        assert [token for token, _ in told.top] == best.indices.tolist()
        assert [value for _, value in told.top] == pytest.approx(best.values.tolist(), abs=1e-5)


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
