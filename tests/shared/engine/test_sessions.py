"""Which conversations stay between their turns: bytes and token ids alone."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from headmap.engine.reuse.sessions import KeptSession, Sessions, SessionTurn
from headmap.kvcache.transformers.cache import ParkedSequence

SIZE = 16
"""Bytes of a parked token: a key and a value of two float32 each."""


def parked(tokens: int) -> ParkedSequence:
    row = torch.zeros(tokens, 2)
    return ParkedSequence(np.full((1, 1), tokens, dtype=np.int64), ((row, row),))


def turn(name: str, *pictures: str, kv: str = "full") -> SessionTurn:
    return SessionTurn(name, kv, pictures)


def test_a_prompt_that_goes_on_is_a_hit() -> None:
    sessions = Sessions(10 * SIZE)
    assert sessions.take(turn("a"), [1, 2, 3]) is None
    assert sessions.keep(turn("a", "p"), [1, 2], parked(2))
    kept = sessions.take(turn("a", "p", "q"), [1, 2, 3])
    assert kept is not None
    assert kept.tokens == (1, 2)


def test_another_past_is_no_hit() -> None:
    sessions = Sessions(10 * SIZE)
    sessions.keep(turn("a", "p"), [1, 2], parked(2))
    for name, one, tokens in (
        ("another session", turn("b", "p"), [1, 2, 3]),
        ("other tokens", turn("a", "p"), [1, 9, 3]),
        ("another picture", turn("a", "x"), [1, 2, 3]),
        ("no picture", turn("a"), [1, 2, 3]),
        ("kept in another way", turn("a", "p", kv="snapkv"), [1, 2, 3]),
        ("nothing to go on with", turn("a", "p"), [1, 2]),
        ("a shorter prompt", turn("a", "p"), [1]),
    ):
        assert sessions.take(one, tokens) is None, name
    assert sessions.take(turn("a", "p"), [1, 2, 3]) is not None


def test_the_least_recently_used_goes_first() -> None:
    sessions = Sessions(3 * SIZE)
    for name in "abc":
        assert sessions.keep(turn(name), [1], parked(1))
    used = sessions.take(turn("a"), [1, 2])
    assert used is not None
    sessions.give_back(used)
    assert sessions.keep(turn("d"), [1], parked(1))
    assert [sessions.take(turn(name), [1, 2]) is not None for name in "abcd"] == [True, False, True, True]


def test_one_that_can_never_fit_leaves_the_others() -> None:
    sessions = Sessions(3 * SIZE)
    sessions.keep(turn("a"), [1], parked(1))
    assert not sessions.keep(turn("b"), [1], parked(4))
    assert sessions.take(turn("a"), [1, 2]) is not None


def test_what_is_in_use_is_neither_dropped_nor_forgotten_in_the_sum() -> None:
    sessions = Sessions(3 * SIZE)
    sessions.keep(turn("a"), [1], parked(2))
    first, second = (sessions.take(turn("a"), [1, 2]) for _ in range(2))
    assert first is not None
    assert second is not None
    assert not sessions.keep(turn("b"), [1], parked(2))
    assert sessions.drop("a")
    assert sessions.nbytes == 2 * SIZE
    sessions.give_back(first)
    assert sessions.nbytes == 2 * SIZE
    sessions.give_back(second)
    assert sessions.nbytes == 0
    assert not sessions.drop("a")


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("keep"), st.sampled_from("abcd"), st.integers(0, 6)),
            st.tuples(st.just("take"), st.sampled_from("abcd"), st.just(0)),
            st.tuples(st.just("give back"), st.just(""), st.integers(0, 3)),
            st.tuples(st.just("drop"), st.sampled_from("abcd"), st.just(0)),
        ),
        max_size=60,
    )
)
def test_the_bound_holds_whatever_happens(steps: list[tuple[str, str, int]]) -> None:
    sessions = Sessions(10 * SIZE)
    used: list[KeptSession] = []
    for what, name, number in steps:
        if what == "keep":
            sessions.keep(turn(name), [1], parked(number))
        elif what == "take":
            used += filter(None, [sessions.take(turn(name), [1, 2])])
        elif what == "give back" and used:
            sessions.give_back(used.pop(number % len(used)))
        elif what == "drop":
            sessions.drop(name)
        assert 0 <= sessions.nbytes <= 10 * SIZE
    for kept in used:
        sessions.give_back(kept)
    for name in "abcd":
        sessions.drop(name)
    assert sessions.nbytes == len(sessions) == 0
