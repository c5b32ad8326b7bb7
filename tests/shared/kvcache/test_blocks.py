"""The bookkeeping under random lives of sequences: every token has a slot of its own, and blocks come back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from headmap.errors import OutOfMemory
from headmap.kvcache.blocks import FREE, BlockTables
from headmap.kvcache.plan import KeepPlan
from headmap.kvcache.shape import CacheShape

SHAPE = CacheShape(num_layers=2, num_kv_heads=3, head_dim=4, itemsize=4)
SIZE = 4
WINDOW = 6
SLIDING = CacheShape(num_layers=2, num_kv_heads=3, head_dim=4, itemsize=4, window=WINDOW, sliding_layers=(1,))


def plan(tokens: np.ndarray, method: str = "snapkv", shape: CacheShape = SHAPE) -> KeepPlan:
    return KeepPlan(method, 1000, 10, 0, "exact", tokens, shape.layer_tokens(1000), method == "adakv")


class Lives(RuleBasedStateMachine):
    """A model of the tables: the token slots of each (layer, slot, head), oldest token first. Layer 1 slides."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = BlockTables(SLIDING, SIZE)
        self.written: dict[int, dict[tuple[int, int, int], list[int]]] = {0: {}, 1: {}}
        self.slots: set[int] = set()

    @rule(lengths=st.lists(st.integers(0, 11), min_size=3, max_size=3), prompt=st.integers(1, 11))
    def admit(self, lengths: list[int], prompt: int) -> None:
        tokens = np.array([lengths, [min(prompt, WINDOW)] * 3], dtype=np.int64)
        slot = self.tables.admit(self.tables.blocks_for(plan(tokens, shape=SLIDING), 0))
        assert slot not in self.slots
        self.slots.add(slot)
        for layer in range(2):
            for head in range(3):
                self.written[layer][slot, head, 0] = []
            self.place(layer, slot, tokens[layer])

    @precondition(lambda self: self.slots)
    @rule(data=st.data(), counts=st.lists(st.integers(0, 11), min_size=3, max_size=3), prompt=st.integers(1, 11))
    def extend(self, data: st.DataObject, counts: list[int], prompt: int) -> None:
        slot = data.draw(st.sampled_from(sorted(self.slots)))
        self.place(0, slot, np.array(counts, dtype=np.int64))
        self.tables.empty(1, slot)  # a sliding layer is written anew
        for head in range(3):
            self.written[1][slot, head, 0] = []
        self.place(1, slot, np.array([min(prompt, WINDOW)] * 3, dtype=np.int64))

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
                    row = self.written[layer][slot, head, 0]
                    row.append(int(places[layer, number, head]))
                    if layer == 1 and len(row) > WINDOW:
                        assert row.pop(0) == row[-1]  # the oldest token makes room

    @precondition(lambda self: self.slots)
    @rule(data=st.data())
    def append_and_take_back(self, data: st.DataObject) -> None:
        slots = np.array(data.draw(st.lists(st.sampled_from(sorted(self.slots)), min_size=1, unique=True)))
        _, assigned = self.tables.append(slots)
        taken = self.tables.take_back(slots)
        assert taken.keys() == assigned.keys()
        for layer, given in assigned.items():
            for part in ("blocks", "rows", "positions"):
                assert (getattr(taken[layer], part) == getattr(given, part)).all()

    @precondition(lambda self: self.slots)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(sorted(self.slots)))
        self.slots.remove(slot)
        self.tables.release(slot)
        for layer in range(2):
            self.written[layer] = {key: value for key, value in self.written[layer].items() if key[0] != slot}
            stay = self.tables.scattered(layer)
            if stay is not None:
                self.tables.compact(layer, stay)
                moved = {int(block): index for index, block in enumerate(stay)}
                for value in self.written[layer].values():
                    value[:] = [moved[place // SIZE] * SIZE + place % SIZE for place in value]

    @invariant()
    def every_token_has_a_slot_of_its_own_in_a_block_of_its_row(self) -> None:
        for layer in range(2):
            places = [place for value in self.written[layer].values() for place in value]
            assert len(places) == len(set(places))
            for (slot, head, _), value in self.written[layer].items():
                assert all(self.tables.owner[layer][place // SIZE] == slot * 3 + head for place in value)
                assert self.tables.lengths[layer, slot, head] == len(value)

    @invariant()
    def sliding_rows_are_told_oldest_first(self) -> None:
        for slot in self.slots:
            assert self.tables.in_order(0, slot) is None
            told = self.tables.in_order(1, slot)
            assert told is not None
            assert told.tolist() == [self.written[1][slot, head, 0] for head in range(3)]

    @invariant()
    def a_row_holds_no_more_blocks_than_it_needs(self) -> None:
        for layer in range(2):
            needed = sum(-(-len(value) // SIZE) for value in self.written[layer].values())
            assert self.tables.used_blocks(layer) == needed

    @invariant()
    def nothing_is_left_when_all_are_gone(self) -> None:
        if not self.slots:
            assert self.tables.reserved_blocks == 0
            assert self.tables.num_rows == 0
            assert all((owner == FREE).all() for owner in self.tables.owner)


TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_blocks_for_covers_the_prompt_and_every_new_token() -> None:
    tables = BlockTables(SHAPE, SIZE)
    assert tables.blocks_for(plan(np.array([[1, 4, 5], [0, 8, 9]])), 0) == 1 + 1 + 2 + 0 + 2 + 3
    assert tables.blocks_for(plan(np.array([[1, 4, 5], [0, 8, 9]])), 4) == 2 + 2 + 3 + 1 + 3 + 4


def test_a_sliding_layer_never_holds_more_than_its_window() -> None:
    tables = BlockTables(SLIDING, SIZE)
    tokens = np.array([[5, 5, 5], [6, 6, 6]])
    assert tables.blocks_for(plan(tokens, shape=SLIDING), 100) == 3 * 27 + 3 * 2
    assert tables.blocks_for(plan(tokens, "adakv", SLIDING), 0) == (15 + 9) // 4 + 3 * 2


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
