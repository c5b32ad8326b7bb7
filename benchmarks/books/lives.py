"""Whether reported memory equals held memory, under random lives of sequences, from admission and forks to release."""

from __future__ import annotations

import random

import numpy as np
import torch

from benchmarks.books import figures as of
from benchmarks.books.figures import Figures, ModelShape
from headmap.errors import OutOfMemory
from headmap.kvcache.pool.books import Books
from headmap.kvcache.pool.paging import Paging
from headmap.kvcache.pool.pool import Pool

SLOTS, MAX_NEW_TOKENS = 16, 300
PROMPTS = (40, 500, 2000)


def measure(figures: Figures, shape: ModelShape, *, events: int = 400) -> None:
    """Ratios that are 1 where reports are right. The pool's tensors have one page more, which nobody reads."""
    paging = Paging(shape.cache)
    compressed, whole = (paging.sequence(shape.plan(method, max(PROMPTS)), 100) for method in ("sparsemm", "full"))
    pool = Pool(
        shape.cache, memory_bytes=max(SLOTS // 2 * compressed, 2 * whole) * paging.page_bytes, slots=SLOTS,
        max_tokens=MAX_NEW_TOKENS, dtype=torch.bfloat16, device=torch.device("meta"),
    )  # fmt: skip
    tensors = pool.keys.nbytes + pool.values.nbytes - pool.page_bytes
    figures.add(of.TENSORS, shape.name, tensors / pool.capacity_bytes, "")
    figures.add(of.TOLD, shape.name, farthest(pool, shape, events), "")


def farthest(pool: Pool, shape: ModelShape, events: int, seed: int = 15) -> float:
    """Reported bytes over bytes of the pages in the tables, after each event; the ratio farthest from 1."""
    chance, books = random.Random(seed), pool.books
    plans = [shape.plan(method, prompt) for prompt in PROMPTS for method in ("full", "sparsemm")]
    alive: list[int] = []
    worst = 1.0
    for _ in range(events):
        event = chance.choice(("admit", "fork", "release", *["append"] * 5))
        try:
            if event == "admit":
                plan = chance.choice(plans)
                slot = books.admit(plan, 1)
                for layer_idx in shape.cache.budgeted_layers:
                    books.place(slot, layer_idx, plan.tokens[layer_idx])
                books.seal(slot)
                books.ring.begin(slot, min(plan.prompt_tokens, books.ring.span))
                alive.append(slot)
            elif alive and event == "fork":
                alive.append(books.fork(chance.choice(alive), 1))
            elif alive and event == "release":
                books.release(alive.pop(chance.randrange(len(alive))))
            elif alive:
                for _ in range(chance.randint(1, 20)):
                    books.append(np.array(alive))
        except OutOfMemory:
            books.release(alive.pop())
        if named := named_pages(books, alive) * pool.page_bytes:
            worst = max(worst, pool.held_bytes / named, key=lambda ratio: abs(ratio - 1))
        elif pool.held_bytes:
            return float("inf")
        for slot in [slot for slot in alive if books.tail.written(slot) > MAX_NEW_TOKENS - 20]:
            alive.remove(slot)
            books.release(slot)
    return worst


def named_pages(books: Books, alive: list[int]) -> int:
    """Different pages in the tables of all sequences."""
    pages: list[np.ndarray] = []
    for slot in alive:
        pages.append(books.part(slot).pages.host)
        for tails in (books.tail, books.ring):
            held = tails.held_pages(slot) // tails.rows if tails.rows else 0
            pages.append(tails.chunk_pages.host[tails.chunks.host[slot, :held]].reshape(-1))
    return len(np.unique(np.concatenate(pages))) if pages else 0
