"""The books under random lives of sequences: every token has its own place, and what is held is what is counted."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from headmap.errors import OutOfMemory
from headmap.kvcache.plan import KeepPlan
from headmap.kvcache.pool.books import Books
from headmap.kvcache.pool.paging import Paging
from headmap.kvcache.shape import CacheShape

LAYERS, HEADS, SIZE, WINDOW, SLOTS, PAGES = 3, 2, 4, 6, 5, 150
SLIDING = CacheShape(LAYERS, HEADS, head_dim=4, itemsize=4, window=WINDOW, sliding_layers=(1,))
FULL_LAYERS = [0, 2]

Place = tuple[int, int]


def make_books(pages: int = PAGES, shape: CacheShape = SLIDING) -> Books:
    return Books(Paging(shape, SIZE), pages=pages, slots=SLOTS, max_tokens=100, device=torch.device("cpu"))


def make_plan(tokens: np.ndarray, prompt: int, shared_out: bool = False) -> KeepPlan:
    most = SLIDING.layer_tokens(prompt)
    return KeepPlan("snapkv", prompt, 10, 0, "exact", tokens, most, shared_out)


class Lives(RuleBasedStateMachine):
    """Beside the books, where each row's tokens lie: (page, place in it), of the part and of the tail."""

    def __init__(self) -> None:
        super().__init__()
        self.books = make_books()
        self.parts: dict[int, list[list[list[Place]]]] = {}
        self.generated: dict[int, int] = {}
        self.in_ring: dict[int, int] = {}
        self.shares: dict[int, int] = {}
        self.count = 0

    @rule(
        lengths=st.lists(st.integers(0, 11), min_size=4, max_size=4),
        prompt=st.integers(1, 13),
        shift=st.integers(0, 5),
        shared_out=st.booleans(),
    )
    def admit(self, lengths: list[int], prompt: int, shift: int, shared_out: bool) -> None:
        prompt = max(prompt, *(length + 1 for length in lengths))
        tokens = np.zeros((LAYERS, HEADS), dtype=np.int64)
        tokens[FULL_LAYERS] = np.array(lengths).reshape(2, 2)
        tokens[1] = min(prompt, WINDOW)
        plan, free = make_plan(tokens, prompt, shared_out), len(self.books.free)
        needed = self.books.paging.sequence(plan, 1)
        if needed > free or len(self.parts) == SLOTS:
            with pytest.raises(OutOfMemory):
                self.books.admit(plan, 1)
            assert len(self.books.free) == free
            return
        slot = self.books.admit(plan, 1)
        assert slot not in self.parts
        assert len(self.books.free) == free - needed
        placed = tokens.copy()
        if shared_out:  # the method moves tokens from head to head
            moved = np.minimum(shift, tokens[FULL_LAYERS, 0])
            placed[FULL_LAYERS] += np.stack([-moved, moved], axis=1)
        rows: list[list[list[Place]]] = [[[] for _ in range(HEADS)] for _ in range(LAYERS)]
        for layer in FULL_LAYERS:
            pages = self.books.place(slot, layer, placed[layer]).tolist()
            for head in range(HEADS):
                own = [pages.pop(0) for _ in range(-(-int(placed[layer, head]) // SIZE))]
                rows[layer][head] = [(own[i // SIZE], i % SIZE) for i in range(placed[layer, head])]
        self.books.ring.begin(slot, min(prompt, WINDOW))
        self.books.seal(slot)
        self.parts[slot], self.generated[slot], self.in_ring[slot] = rows, 0, min(prompt, WINDOW)
        self.shares[slot] = self.count = self.count + 1

    @precondition(lambda self: self.parts)
    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(sorted(self.parts)))
        free = len(self.books.free)
        if self.generated[slot]:
            return
        try:
            to = self.books.fork(slot, 1)
        except OutOfMemory:
            assert len(self.books.free) == free
            return
        self.parts[to], self.generated[to], self.in_ring[to] = self.parts[slot], 0, self.in_ring[slot]
        self.shares[to] = self.shares[slot]

    @precondition(lambda self: self.parts)
    @rule(data=st.data(), failed=st.booleans())
    def step(self, data: st.DataObject, failed: bool) -> None:
        slots = data.draw(st.lists(st.sampled_from(sorted(self.parts)), min_size=1, unique=True))
        order, free = np.array(slots), len(self.books.free)
        short = self.books.short(order)
        if short > free:
            with pytest.raises(OutOfMemory):
                self.books.append(order)
            assert len(self.books.free) == free
            return
        self.books.append(order)
        assert len(self.books.free) == free - short
        for slot in slots:
            assert self.books.tail.write_at.host[slot] == self.generated[slot]
            assert self.books.ring.write_at.host[slot] == (self.in_ring[slot] + self.generated[slot]) % WINDOW
        if failed:
            self.books.undo(order)
        else:
            for slot in slots:
                self.generated[slot] += 1

    @precondition(lambda self: self.parts)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(sorted(self.parts)))
        self.books.release(slot)
        for known in (self.parts, self.generated, self.in_ring, self.shares):
            known.pop(slot)

    def tail_rows(self, slot: int) -> dict[tuple[int, int], list[Place]]:
        """Where the tail's tokens lie, as a kernel finds them."""
        found = {}
        for layer in range(LAYERS):
            tails = self.books.tails_of(layer)
            held = self.generated[slot] + (self.in_ring[slot] if layer == 1 else 0)
            held = min(held, WINDOW) if layer == 1 else held
            first = tails.first_row(layer)
            for head in range(HEADS):
                chunks = tails.chunks.host[slot]
                found[layer, head] = [
                    (int(tails.chunk_pages.host[chunks[i // SIZE], first + head]), i % SIZE) for i in range(held)
                ]
        return found

    @invariant()
    def every_token_has_a_place_of_its_own(self) -> None:
        taken: list[Place] = []
        seen: set[int] = set()
        for slot, rows in self.parts.items():
            if self.shares[slot] not in seen:
                seen.add(self.shares[slot])
                taken += [place for layer in rows for row in layer for place in row]
            taken += [place for row in self.tail_rows(slot).values() for place in row]
        assert len(taken) == len(set(taken))
        pages = {page for page, _ in taken}
        assert all(0 <= page < PAGES for page in pages)
        assert len(pages) <= self.books.held_pages

    @invariant()
    def kernels_find_the_part_where_it_lies(self) -> None:
        for slot, rows in self.parts.items():
            for layer in FULL_LAYERS:
                for head in range(HEADS):
                    address = int(self.books.part_pages.host[slot])
                    start = int(self.books.part_starts.host[layer, slot, head])
                    tokens = int(self.books.part_tokens.host[layer, slot, head])
                    assert tokens == len(rows[layer][head])
                    for index, (page, place) in enumerate(rows[layer][head]):
                        at = address + 4 * (start + index // SIZE)
                        assert (ctypes.c_int32.from_address(at).value, index % SIZE) == (page, place)

    @invariant()
    def lengths_are_those_of_the_rows(self) -> None:
        for slot, rows in self.parts.items():
            tail = self.tail_rows(slot)
            expected = [[len(rows[layer][head]) + len(tail[layer, head]) for head in range(2)] for layer in range(3)]
            assert self.books.lengths(slot).tolist() == expected
            assert self.books.tokens(slot) == np.sum(expected)

    def teardown(self) -> None:
        for slot in list(self.parts):
            self.books.release(slot)
        assert self.books.held_pages == 0
        assert sorted(self.books.free.take(PAGES).tolist()) == list(range(PAGES))


Lives.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestLives = Lives.TestCase


def test_what_a_sequence_comes_to_hold_was_told_before() -> None:
    books = make_books()
    tokens = np.array([[3, 9], [6, 6], [0, 4]])
    plan = make_plan(tokens, 9)
    slot = books.admit(plan, 1)
    for layer in FULL_LAYERS:
        books.place(slot, layer, tokens[layer])
    books.ring.begin(slot, 6)
    books.seal(slot)
    for generated in range(1, 30):
        books.append(np.array([slot]))
        assert books.held_pages == books.paging.sequence(plan, generated)


def test_a_step_that_comes_again_takes_no_page_twice() -> None:
    books = make_books()
    slot = books.admit(make_plan(np.ones((LAYERS, HEADS), dtype=np.int64), 1), 1)
    books.seal(slot)
    for _ in range(3):
        books.append(np.array([slot]))
        held = books.held_pages
        books.undo(np.array([slot]))
        books.append(np.array([slot]))
        assert books.held_pages == held


def test_the_idle_slot_writes_to_a_page_that_nobody_has() -> None:
    books = make_books()
    for tails in (books.tail, books.ring):
        assert (tails.chunk_pages.host[tails.chunks.host[books.slots, 0]] == PAGES).all()
        assert tails.tokens.host[books.slots] == tails.write_at.host[books.slots] == 0
    assert not books.part_tokens.host[:, books.slots].any()


def test_what_is_released_without_being_read_comes_back_whole() -> None:
    """A prefill that fails half way through its layers."""
    books = make_books()
    slot = books.admit(make_plan(np.full((LAYERS, HEADS), 9), 9), 1)
    books.place(slot, 0, np.array([9, 9]))
    books.release(slot)
    assert books.held_pages == 0


def test_a_layer_cannot_take_more_than_was_admitted() -> None:
    books = make_books()
    slot = books.admit(make_plan(np.full((LAYERS, HEADS), 4), 9), 1)
    with pytest.raises(OutOfMemory, match="layer 0 needs 6 KV pages, 4 were admitted"):
        books.place(slot, 0, np.array([12, 12]))
