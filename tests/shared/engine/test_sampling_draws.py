"""Draws follow the probabilities that are asked for, and never leave a cut."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headmap.engine.sampling.draws import CANDIDATES, draw
from headmap.engine.sampling.params import SamplingParams
from headmap.engine.sampling.request_state import RequestState
from headmap.engine.sampling.sampler import sample
from tests.shared.engine.sampling_logits import draws, random_logits


def plain(logits: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    """(vocab,) float64: the probabilities that a row is drawn with, by the definitions."""
    p = (logits.double() / params.temperature).softmax(-1)
    p = torch.where(p >= params.min_p * p.max(), p, 0.0)
    order = p.argsort(descending=True, stable=True)
    if params.top_k:
        p[order[params.top_k :]] = 0.0
    p /= p.sum()
    before = p[order].cumsum(-1) - p[order]
    p[order[before >= params.top_p]] = 0.0
    return p / p.sum()


CUTS = (
    SamplingParams(do_sample=True),
    SamplingParams(do_sample=True, temperature=0.7),
    SamplingParams(do_sample=True, temperature=2.0, min_p=0.1),
    SamplingParams(do_sample=True, top_k=7),
    SamplingParams(do_sample=True, top_k=CANDIDATES + 76),
    SamplingParams(do_sample=True, top_p=0.6),
    SamplingParams(do_sample=True, top_p=0.999, temperature=20.0),  # more than the candidates
    SamplingParams(do_sample=True, top_k=30, top_p=0.7, temperature=1.3),
    SamplingParams(do_sample=True, top_k=1500, top_p=0.5, temperature=5.0, min_p=0.01),
)


@pytest.mark.parametrize("params", CUTS)
@pytest.mark.parametrize("vocab", [40, 2500])
def test_draws_follow_the_probabilities(params: SamplingParams, vocab: int) -> None:
    logits, number = random_logits(1, vocab)[0], 3000
    expected = plain(logits, params)
    found = draws(logits, params, number)
    assert found[expected == 0].sum() == 0
    # Chi-square over the likely tokens one by one and the others together
    likely = expected * number >= 5
    wanted = torch.cat([expected[likely], expected[~likely].sum()[None]]) * number
    seen = torch.cat([found[likely], found[~likely].sum()[None]])
    wanted, seen = wanted[wanted > 0], seen[wanted > 0]
    degrees = len(wanted) - 1
    chi_square = float(((seen - wanted) ** 2 / wanted).sum())
    assert chi_square <= degrees + 4 * (2 * max(degrees, 1)) ** 0.5


def test_no_token_of_a_large_vocabulary_gains_by_rounding() -> None:
    vocab, rows = 152_064, 30
    places = (torch.arange(rows, dtype=torch.float64) + 0.5) / rows
    tokens = draw(torch.full((1, vocab), 1 / vocab).expand(rows, -1), places)
    assert tokens.tolist() == [int(place * vocab) for place in places]


@given(place=st.floats(0, 1, exclude_max=True), vocab=st.integers(1, 3000))
def test_draws_invert_the_running_sum(place: float, vocab: int) -> None:
    weights = random_logits(1, vocab, seed=vocab).exp()
    token = int(draw(weights, torch.tensor([place], dtype=torch.float64)))
    reached = weights[0].double().cumsum(-1)
    target, slack = place * reached[-1], 1e-6 * reached[-1]  # sums of blocks are rounded to float32
    assert reached[token] >= target - slack
    assert reached[token] - weights[0, token] <= target + slack


@pytest.mark.parametrize("place", [0.0, 0.5, 1 - 2**-53])
def test_what_weighs_nothing_is_never_drawn(place: float) -> None:
    vocab = 5000
    for real in (0, 1023, 1024, 2000, vocab - 1):
        weights = torch.zeros(1, vocab)
        weights[0, real] = 1e-30
        assert int(draw(weights, torch.tensor([place], dtype=torch.float64))) == real
    weights = random_logits(64, vocab, seed=3).relu()
    tokens = draw(weights, torch.full((64,), place, dtype=torch.float64))
    assert bool((weights.gather(1, tokens[:, None]) > 0).all())


@given(
    values=st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0]), min_size=1, max_size=30),
    top_k=st.integers(0, 40),
    top_p=st.floats(0.01, 1.0),
    min_p=st.floats(0.0, 1.0),
    temperature=st.floats(0.05, 50.0),
    seed=st.integers(-(2**63), 2**63 - 1),
)
def test_no_draw_leaves_the_cut(
    values: list[float], top_k: int, top_p: float, min_p: float, temperature: float, seed: int
) -> None:
    params = SamplingParams(do_sample=True, top_k=top_k, top_p=top_p, min_p=min_p, temperature=temperature, seed=seed)
    logits = torch.tensor(values)
    # A little wider than asked: sums at the border of a cut are rounded
    allowed = plain(logits, replace(params, top_p=min(1.0, top_p + 1e-5), min_p=min_p * (1 - 1e-5)))
    states = [RequestState(params) for _ in range(8)]
    for number, state in enumerate(states):
        state.generated = number
    tokens = sample(logits.repeat(8, 1), states).tokens
    # Of tokens that are as likely as each other any may be the one that is cut off
    lowest = logits[allowed > 0].min()
    assert bool((logits[tokens] >= lowest).all())


def test_cuts_end_within_equal_tokens() -> None:
    logits = torch.zeros(3000)
    assert (draws(logits, SamplingParams(do_sample=True, top_k=3), 300) > 0).sum() == 3
    assert (draws(logits, SamplingParams(do_sample=True, top_p=0.001), 300) > 0).sum() == 3
    assert (draws(logits, SamplingParams(do_sample=True, top_k=1500, top_p=0.002), 300) > 0).sum() == 3


def test_a_row_that_is_not_a_number_leaves_the_others() -> None:
    for params in CUTS:
        logits = random_logits(3, 2500)
        expected = sample(logits[::2].clone(), [RequestState(replace(params, seed=9))] * 2).tokens.tolist()
        logits[1] = torch.nan
        tokens = sample(logits, [RequestState(replace(params, seed=9))] * 3).tokens.tolist()
        assert tokens[::2] == expected
        assert 0 <= tokens[1] < 2500
