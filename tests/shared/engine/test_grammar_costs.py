"""What a grammar may cost: by its size, at each token, and over a whole answer."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headmap.engine.sampling.grammar import FIRST_SECONDS, SECONDS_A_TOKEN, Grammars, Match
from headmap.engine.sampling.grammar_forms import check_size
from headmap.engine.vocabulary import Vocabulary, read_vocabulary
from headmap.errors import InvalidParameter
from tests.shared.engine.test_grammar import eos_of, grammars
from tests.shared.families.test_tokenizing import byte_level


@pytest.mark.parametrize(
    "value",
    [
        "x" * 70_000,
        ["x" * 100] * 1000,
        {str(number): number for number in range(20_000)},
        {"enum": list(range(20_000))},
        {"x" * 70_000: 1},
        {"allOf": [{"anyOf": [{}] * 5000}] * 5},
    ],
)
def test_forms_are_refused_by_their_size_alone(value: object) -> None:
    with pytest.raises(InvalidParameter, match=r"^form: \d+ (characters|values), at most \d+ are taken"):
        check_size(value, "form")


@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
@settings(max_examples=50, deadline=None)
def test_small_forms_have_no_size_to_refuse(value: object) -> None:
    check_size(value, "form")


class CountingVocabulary(Vocabulary):
    """Notes how many bytes are made tokens of."""

    asked: ClassVar[list[int]] = []

    def tokens(self, data: bytes) -> list[int]:
        self.asked.append(len(data))
        return super().tokens(data)


def test_a_long_constant_is_written_without_all_of_it_at_each_token() -> None:
    """A mask needs the first token of what is certain to come."""
    known = read_vocabulary(byte_level())
    vocabulary = CountingVocabulary(known.pieces, known.controls)
    constant = [str(number) + "x" * 7990 for number in range(7)]
    match = Grammars(vocabulary, frozenset({eos_of(byte_level())})).json_schema({"const": constant}, "g").start()
    CountingVocabulary.asked.clear()
    written = b""
    for _ in range(200):
        token = int(match.allowed(len(vocabulary.pieces)).nonzero()[0, 0])
        match.accept(token)
        written += vocabulary.written(token)
    assert json.dumps(constant, separators=(",", ":")).encode().startswith(written)
    assert len(written) >= 200
    assert max(CountingVocabulary.asked) < 1000


class Costly:
    """Stands for a matcher whose every mask takes so many seconds of the clock that is read."""

    def __init__(self, clock: list[float], seconds: float) -> None:
        self._clock, self._seconds = clock, seconds

    def compute_bitmask(self) -> bytes:
        self._clock[0] += self._seconds
        return b"\xff"

    def is_error(self) -> bool:
        return False

    def consume_token(self, token: int) -> bool:
        return True


@pytest.mark.parametrize(("seconds", "most"), [(0.1, 3), (0.02, 20), (0.006, 260), (0.004, None)])
def test_an_answer_whose_masks_cost_too_much_ends(
    seconds: float, most: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "thread_time", lambda: clock[0])
    match = Match(Costly(clock, seconds), "g")  # type: ignore[arg-type]
    taken = 0
    with suppress(InvalidParameter):
        while taken < 1000:
            match.allowed(8)
            match.accept(0)
            taken += 1
    assert taken == 1000 if most is None else taken <= most
    assert clock[0] <= FIRST_SECONDS + taken * SECONDS_A_TOKEN + seconds + 1e-9
    if most is not None:
        with pytest.raises(InvalidParameter, match=r"its grammar takes more than 0\.25 seconds and 0\.005 a token"):
            match.allowed(8)


@pytest.mark.parametrize(
    ("form", "value"),
    [
        ("regex", "A{1000}{1000}"),
        ("regex", "(((a{1,50}){1,50}){1,50}){1,50}"),
        ("json_schema", {"type": "string", "pattern": "^A{1000}{1000}$"}),
        ("lark", 'start: "x" A\nA: /A{1000}{1000}/'),
        ("lark", 'start: start start | "a" | "b" | start start start'),
    ],
)
def test_hostile_grammars_are_refused_or_end(form: str, value: object) -> None:
    """None of their masks costs more than the whole answer may."""
    maker, vocabulary = grammars(byte_level())
    with suppress(InvalidParameter):
        match = getattr(maker, form)(value, "g").start()
        for _ in range(60):
            before = match._left
            allowed = match.allowed(len(vocabulary.pieces))
            assert before - match._left < FIRST_SECONDS
            match.accept(int(allowed.nonzero()[0, 0]))
