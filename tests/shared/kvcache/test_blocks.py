"""The bookkeeping under random lives of sequences: every token has a slot of its own, and blocks come back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from headmap.errors import OutOfMemory
from headmap.kvcache.blocks import FREE, BlockTables
from headmap.kvcache.methods import get_method
from headmap.kvcache.plan import CacheShape, KeepPlan

SHAPE = CacheShape(num_layers=2, num_kv_heads=3, head_dim=4, itemsize=4)
SIZE = 4


def plan(tokens: np.ndarray, method: str = "snapkv") -> KeepPlan:
    return KeepPlan(get_method(method), 1000, 10, 0, "exact", tokens)


class Lives(RuleBasedStateMachine):
    """A model of the tables: which (layer, slot, head, index) was written to which token slot."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = BlockTables(SHAPE, SIZE)
        self.written: dict[int, dict[tuple[int, int, int], list[int]]] = {0: {}, 1: {}}
        self.slots: set[int] = set()

    @rule(lengths=st.lists(st.integers(0, 11), min_size=6, max_size=6), new=st.integers(0, 9))
    def admit(self, lengths: list[int], new: int) -> None:
        tokens = np.array(lengths, dtype=np.int64).reshape(2, 3)
        slot = self.tables.admit(self.tables.blocks_for(plan(tokens), new))
        assert slot not in self.slots
        self.slots.add(slot)
        for layer in range(2):
            for head in range(3):
                self.written[layer][slot, head, 0] = []
            self.place(layer, slot, tokens[layer])

    @precondition(lambda self: self.slots)
    @rule(data=st.data(), counts=st.lists(st.integers(0, 11), min_size=6, max_size=6))
    def extend(self, data: st.DataObject, counts: list[int]) -> None:
        slot = data.draw(st.sampled_from(sorted(self.slots)))
        for layer in range(2):
            self.place(layer, slot, np.array(counts, dtype=np.int64).reshape(2, 3)[layer])

    def place(self, layer: int, slot: int, counts: np.ndarray) -> None:
        places, assigned = self.tables.place(layer, slot, counts)
        assert (self.tables.owner[layer][assigned.blocks] == assigned.rows).all()
        for head, part in enumerate(np.split(places, np.cumsum(counts)[:-1])):
            self.written[layer][slot, head, 0] += part.tolist()

    @precondition(lambda self: self.slots)
    @rule(data=st.data())
    def append(self, data: st.DataObject) -> None:
        slots = data.draw(st.lists(st.sampled_from(sorted(self.slots)), min_size=1, unique=True))
        places, _ = self.tables.append(np.array(slots))
        for layer in range(2):
            for number, slot in enumerate(slots):
                for head in range(3):
                    self.written[layer][slot, head, 0].append(int(places[layer, number, head]))

    @precondition(lambda self: self.slots)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(sorted(self.slots)))
        self.slots.remove(slot)
        self.tables.release(slot)
        for layer in range(2):
            self.written[layer] = {key: value for key, value in self.written[layer].items() if key[0] != slot}
            stay = self.tables.compact(layer)
            if stay is not None:
                moved = {int(block): index for index, block in enumerate(stay)}
                for value in self.written[layer].values():
                    value[:] = [moved[place // SIZE] * SIZE + place % SIZE for place in value]

    @invariant()
    def every_token_has_a_slot_of_its_own_in_a_block_of_its_row(self) -> None:
        for layer in range(2):
            places = [place for value in self.written[layer].values() for place in value]
            assert len(places) == len(set(places))
            for (slot, head, _), value in self.written[layer].items():
                assert all(self.tables.owner[layer][place // SIZE] == 1 + slot * 3 + head for place in value)
                assert self.tables.lengths[layer, slot, head] == len(value)

    @invariant()
    def a_row_holds_no_more_blocks_than_it_needs(self) -> None:
        for layer in range(2):
            needed = sum(-(-len(value) // SIZE) for value in self.written[layer].values())
            assert self.tables.used_blocks(layer) == needed

    @invariant()
    def nothing_is_left_when_all_are_gone(self) -> None:
        if not self.slots:
            assert self.tables.reserved_blocks == 0
            assert self.tables.num_rows == 1
            assert all((owner == FREE).all() for owner in self.tables.owner)


TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_blocks_for_covers_the_prompt_and_every_new_token() -> None:
    tables = BlockTables(SHAPE, SIZE)
    assert tables.blocks_for(plan(np.array([[1, 4, 5], [0, 8, 9]])), 0) == 1 + 1 + 2 + 0 + 2 + 3
    assert tables.blocks_for(plan(np.array([[1, 4, 5], [0, 8, 9]])), 4) == 2 + 2 + 3 + 1 + 3 + 4


def test_a_method_that_decides_per_prompt_reserves_for_the_worst_split() -> None:
    tables = BlockTables(SHAPE, SIZE)
    reserved = tables.blocks_for(plan(np.full((2, 3), 5), "adakv"), 0)
    worst = max(-(-a // SIZE) + -(-b // SIZE) + -(-(15 - a - b) // SIZE) for a in range(16) for b in range(16 - a))
    assert reserved == 2 * worst


def test_admission_is_exact() -> None:
    tables = BlockTables(SHAPE, SIZE, capacity_blocks=10)
    slot = tables.admit(7)
    assert tables.fits(3)
    assert not tables.fits(4)
    with pytest.raises(OutOfMemory, match="4 KV blocks do not fit beside 7 of 10"):
        tables.admit(4)
    tables.release(slot)
    assert tables.fits(10)
