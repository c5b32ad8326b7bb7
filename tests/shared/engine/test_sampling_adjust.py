"""What changes logits before a token is chosen: bias, penalties, grammars, least length. Errors stay in their row."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headmap.engine.sampling.adjust import adjust
from headmap.engine.sampling.grammar import Grammar, Grammars
from headmap.engine.sampling.params import SamplingParams
from headmap.engine.sampling.request_state import RequestState
from headmap.engine.sampling.sampler import sample
from headmap.engine.vocabulary import Vocabulary, read_vocabulary
from headmap.errors import InvalidParameter
from tests.shared.engine.sampling_logits import draws, random_logits
from tests.shared.families.test_tokenizing import byte_level

LOGITS = torch.tensor([0.0, 3.0, 2.9, -1.0, 1.0])
VOCAB = 12
TOKENS = st.lists(st.integers(0, VOCAB + 2), max_size=30)


@given(
    prompt=TOKENS,
    said=st.lists(st.integers(0, VOCAB - 1), max_size=30),
    repetition=st.floats(0.1, 10.0),
    presence=st.floats(-2, 2),
    frequency=st.floats(-2, 2),
    bias=st.dictionaries(st.integers(0, VOCAB - 1), st.floats(-100, 100), max_size=5),
)
def test_penalties_and_bias_are_those_of_the_definitions(
    prompt: list[int],
    said: list[int],
    repetition: float,
    presence: float,
    frequency: float,
    bias: dict[int, float],
) -> None:
    params = SamplingParams(
        repetition_penalty=repetition, presence_penalty=presence, frequency_penalty=frequency, logit_bias=bias
    )
    state = RequestState(params, prompt)
    for token in said:
        state.take(token)
    logits = random_logits(3, VOCAB)
    expected = logits.double()
    counts = Counter(said)
    for token in range(VOCAB):
        value = float(expected[1, token]) + bias.get(token, 0.0)
        if token in counts or token in prompt:
            value = value / repetition if value > 0 else value * repetition
        expected[1, token] = value - presence * (token in counts) - frequency * counts[token]
    others = RequestState(SamplingParams(), prompt)
    assert adjust(logits, [others, state, others]) == {}
    torch.testing.assert_close(logits.double(), expected, rtol=1e-4, atol=1e-4)


def test_repetition_counts_the_prompt_and_the_others_only_the_answer() -> None:
    for params, tokens in (
        (SamplingParams(repetition_penalty=2.0), [2, 1]),  # 2.9 / 2 lies below 3.0 / 2
        (SamplingParams(presence_penalty=2.0), [1, 2, 1]),
        (SamplingParams(frequency_penalty=2.0), [1, 2, 1, 4, 2]),
    ):
        state = RequestState(params, [1])
        for token in tokens:
            assert sample(LOGITS[None].clone(), [state]).tokens.tolist() == [token]
            state.take(token)


@pytest.mark.parametrize("penalty", [1e-300, 1e-38, 1e38, 1e300])
def test_no_penalty_overflows(penalty: float) -> None:
    logits = torch.tensor([[0.0, 3.0, -3.0, 1.0]])
    adjust(logits, [RequestState(SamplingParams(repetition_penalty=penalty), [0, 1, 2])])
    assert not logits.isnan().any()
    assert not (logits == torch.inf).any()
    assert logits[0, 0] == 0


@pytest.mark.parametrize("ways", [{}, {"top_k": 3}, {"top_p": 0.9}, {"min_p": 0.01}])
def test_a_bias_of_100_decides(ways: dict[str, float]) -> None:
    params = SamplingParams(do_sample=True, logit_bias={3: 100}, **ways)
    assert draws(LOGITS, params, 100)[3] == 100
    params = SamplingParams(do_sample=True, logit_bias={1: -100}, **ways)
    assert draws(LOGITS, params, 100)[1] == 0


def test_nothing_ends_an_answer_before_its_least_length() -> None:
    logits = torch.tensor([0.0, 9.0, 8.0, 7.0, 1.0])
    params = SamplingParams(min_tokens=2, stop_token_ids=frozenset({2, 99}))
    state = RequestState(params, eos=frozenset({1}))
    for expected in (3, 3, 1):
        assert sample(logits[None].clone(), [state]).tokens.tolist() == [expected]
        state.take(expected)
    assert state.ends == {1, 2, 99}
    ignoring = RequestState(SamplingParams(min_tokens=2, ignore_eos=True), eos=frozenset({1}))
    assert sample(logits[None].clone(), [ignoring]).tokens.tolist() == [1]


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return read_vocabulary(byte_level())


@pytest.fixture(scope="module")
def maker(vocabulary: Vocabulary) -> Grammars:
    return Grammars(vocabulary, frozenset({int(byte_level().convert_tokens_to_ids("<|im_end|>"))}))


def test_each_row_keeps_to_its_own_grammar(vocabulary: Vocabulary, maker: Grammars) -> None:
    grammars = [maker.regex("(yes|no)!", "g"), None, maker.regex("[0-9]{3}", "g"), maker.regex("(yes|no)!", "g")]
    params = [SamplingParams(do_sample=number > 1, top_k=20 * (number == 3), seed=number) for number in range(4)]
    states = [RequestState(one, grammar=grammar) for one, grammar in zip(params, grammars, strict=True)]
    written = [b""] * 4
    for step in range(9):
        logits = random_logits(4, len(vocabulary.pieces) + 5, seed=step)
        tokens = sample(logits, states).tokens.tolist()
        for row, (state, token) in enumerate(zip(states, tokens, strict=True)):
            if not state.done:
                state.take(token)
                written[row] += vocabulary.written(token)
        if all(states[row].done for row in (0, 2, 3)):
            break
    assert written[0] in (b"yes!", b"no!")
    assert written[2].isdigit()
    assert len(written[2]) == 3
    assert written[3] in (b"yes!", b"no!")
    assert not states[1].done


def test_a_grammar_may_end_an_answer_below_its_least_length(vocabulary: Vocabulary, maker: Grammars) -> None:
    end = int(byte_level().convert_tokens_to_ids("<|im_end|>"))
    state = RequestState(SamplingParams(min_tokens=50), eos=frozenset({end}), grammar=maker.regex("a{0,2}", "g"))
    logits = torch.zeros(1, len(vocabulary.pieces))
    logits[0, end] = 9.0
    tokens = []
    while not state.done and len(tokens) < 9:
        tokens += sample(logits.clone(), [state]).tokens.tolist()
        state.take(tokens[-1])
    assert b"".join(map(vocabulary.written, [token for token in tokens if token != end])) == b"aa"


class FailingGrammar(Grammar):
    """One whose answers can never go on."""

    def __init__(self) -> None:
        pass

    def start(self) -> FailingGrammar:  # type: ignore[override]
        return self

    def allowed(self, size: int) -> torch.Tensor:
        raise InvalidParameter("grammar: too much work", param="grammar")


@pytest.mark.parametrize("params", [SamplingParams(seed=1), SamplingParams(do_sample=True, top_p=0.9, seed=1)])
def test_an_error_stays_in_its_row(params: SamplingParams) -> None:
    logits = random_logits(4, 500)
    expected = sample(logits.clone(), [RequestState(params)] * 4).tokens.tolist()
    states = [RequestState(params) for _ in range(4)]
    states[1] = RequestState(params, grammar=FailingGrammar())
    states[3] = RequestState(SamplingParams(logit_bias={500: 1.0}))
    sampled = sample(logits, states)
    assert sampled.tokens.tolist()[::2] == expected[::2]
    assert {row: error.param for row, error in sampled.errors.items()} == {1: "grammar", 3: "logit_bias"}
    assert "500" in sampled.errors[3].detail
