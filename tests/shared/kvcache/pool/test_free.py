"""What is free: nothing is handed out twice, and nothing is lost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headmap.errors import OutOfMemory
from headmap.kvcache.pool.free import FreeList


@given(st.lists(st.integers(-6, 12), max_size=60))
def test_each_number_is_free_or_handed_out(steps: list[int]) -> None:
    """A step above 0 takes so many; one below gives back something that was taken."""
    free, held = FreeList(40), []
    for step in steps:
        if step >= 0:
            before = len(free)
            try:
                held.append(free.take(step))
            except OutOfMemory:
                assert step > before == len(free)
        elif held:
            free.give(held.pop(-step % len(held)))
        taken = [number for piece in held for number in piece.tolist()]
        assert len(taken) == len(set(taken)) == 40 - len(free)
    rest = free.take(len(free)).tolist()
    assert sorted(rest + [number for piece in held for number in piece.tolist()]) == list(range(40))


def test_what_is_handed_out_is_the_takers_to_change() -> None:
    free = FreeList(8)
    free.take(3)[:] = -1
    first = free.take(5)
    free.give(first)
    again = free.take(2)
    again[:] = -1
    assert sorted(free.take(3).tolist() + first[:2].tolist()) == sorted(first.tolist())


def test_a_small_rest_lets_go_of_a_large_piece() -> None:
    free = FreeList(1000)
    free.take(990)
    assert sum(piece.base.size if piece.base is not None else piece.size for piece in free._pieces) <= 20


def test_more_than_is_free_takes_nothing() -> None:
    free = FreeList(3)
    with pytest.raises(OutOfMemory, match="4 KV pages are needed and 3 of 3 are free"):
        free.take(4)
    assert sorted(free.take(3).tolist()) == [0, 1, 2]
    assert isinstance(free.take(0), np.ndarray)
