"""How many decode steps can replay a graph while requests of many lengths come and go, and pages run short.

Requests arrive at random (Poisson), with answers of random length. Scheduler, books and `GraphedDecoder` are the
serving ones. The model and the graph are stand-ins; a graph counts as stale once any tensor it knows has moved.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.books import figures as of
from benchmarks.books.figures import Figures, ModelShape
from headmap.engine.graphs import GraphedDecoder
from headmap.engine.scheduler import Scheduler, spare_pages
from headmap.kvcache.plan import KeepPlan
from headmap.kvcache.pool.paging import Paging
from headmap.kvcache.pool.pool import Pool
from headmap.kvcache.transformers.cache import RaggedCache
from headmap.kvcache.transformers.decode import DecodeCache

MAX_RUNNING, MAX_ANSWER = 64, 400
PROMPTS = (60, 300, 2000, 8192)
STEPS_BETWEEN_ARRIVALS = 5.0
HEAD_DIM = 16
"""Books don't depend on it, and these tensors are real: their addresses are looked at."""


@dataclass(eq=False)
class Request:
    id: str
    plan: KeepPlan
    answer: int
    tokens: int = 1
    slot: int = -1


@dataclass
class Seen:
    """Counts of steps: all, those right after a join, and those replayed by a graph that was not stale."""

    steps: int = 0
    after_join: int = 0
    replayed: int = 0
    plain: int = 0
    stale: int = 0
    captured: int = 0
    preempted: int = 0


def measure(figures: Figures, shape: ModelShape, *, steps: int = 2000) -> None:
    """Every step counts, also one right after a join. A step that captures first is replayed then, and counts so; there
    is one capture for each power of two of sequences, once in a model's life."""
    seen = simulate(shape, steps)
    figures.add(of.REPLAYED, shape.name, (seen.replayed - seen.stale) / (seen.replayed + seen.plain), "of steps")
    figures.add(of.CAPTURED, shape.name, seen.captured, f"in {seen.steps} steps, {seen.after_join} after a join")


def simulate(shape: ModelShape, steps: int, seed: int = 15) -> Seen:
    chance, seen = random.Random(seed), Seen()
    small = shape.with_head_dim(HEAD_DIM)
    plans = [small.plan("sparsemm", prompt) for prompt in PROMPTS]
    cache = _cache(small, max(plans, key=lambda plan: plan.kept_tokens))
    decoder = _decoder(cache, seen)
    scheduler: Scheduler[Request] = Scheduler(MAX_RUNNING, 10**6)
    running: list[Request] = []
    arrived, number = chance.expovariate(1 / STEPS_BETWEEN_ARRIVALS), 0
    while seen.steps < steps:
        while arrived <= seen.steps or not (running or len(scheduler)):
            scheduler.add(Request(str(number), chance.choice(plans), chance.randint(1, MAX_ANSWER)), len(running))
            number += 1
            arrived += chance.expovariate(1 / STEPS_BETWEEN_ARRIVALS)
        seen.after_join += _start(cache, scheduler, running)
        _make_room(cache, scheduler, running, seen)
        with cache.step([request.slot for request in running]) as step:
            tokens = torch.zeros(len(running), dtype=torch.int64)
            decoder.step(step, tokens[:, None], tokens)
        seen.steps += 1
        for request in running[:]:
            request.tokens += 1
            if request.tokens >= request.answer:
                running.remove(request)
                cache.release(request.slot)
    seen.replayed, seen.plain = decoder.replayed, decoder.plain
    return seen


def _cache(shape: ModelShape, largest: KeepPlan) -> RaggedCache:
    """Room for a fifth of what MAX_RUNNING requests need at most, so that some are preempted."""
    paging = Paging(shape.cache)
    pages = MAX_RUNNING * paging.sequence(largest, MAX_ANSWER) // 5
    pool = Pool(
        shape.cache, memory_bytes=pages * paging.page_bytes, slots=MAX_RUNNING, max_tokens=MAX_ANSWER + 1,
        dtype=torch.bfloat16, device=torch.device("cpu"),
    )  # fmt: skip
    return RaggedCache(pool, "torch")


def _decoder(cache: RaggedCache, seen: Seen) -> GraphedDecoder:
    def forward(tokens: torch.Tensor, positions: torch.Tensor, step: DecodeCache) -> torch.Tensor:
        del positions, step
        return torch.zeros(len(tokens), 1)

    def capture(step: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor]:
        seen.captured += 1
        known, logits = _addresses(cache), step()

        def replay() -> None:
            seen.stale += _addresses(cache) != known

        return replay, logits

    return GraphedDecoder(forward, cache.backend, capture)


def _addresses(cache: RaggedCache) -> list[int]:
    """The addresses of all tensors that a decode backend reads; see `DecodeBackend`."""
    books, pool = cache.books, cache.pool
    shared = [books.part_pages, books.part_starts, books.part_tokens]
    for tails in (books.tail, books.ring):
        shared += [tails.chunk_pages, tails.chunks, tails.tokens, tails.write_at]
    return [tensor.data_ptr() for tensor in (pool.keys, pool.values, *(ints.device for ints in shared))]


def _start(cache: RaggedCache, scheduler: Scheduler[Request], running: list[Request]) -> bool:
    """Start the requests whose first pages fit, by the engine's rule. Returns whether any joined."""
    books, before = cache.books, len(running)

    def fits(request: Request) -> bool:
        spare = spare_pages(len(books.free), len(running), books.tail.rows)
        return cache.paging.sequence(request.plan, request.tokens) <= spare

    while (request := scheduler.next(len(running), fits)) is not None:
        request.slot = cache.admit(request.plan, request.tokens)
        for layer_idx in range(cache.shape.num_layers):
            books.place(request.slot, layer_idx, request.plan.tokens[layer_idx])
        books.seal(request.slot)
        books.tail.begin(request.slot, request.tokens - 1)
        running.append(request)
    return len(running) > before


def _make_room(cache: RaggedCache, scheduler: Scheduler[Request], running: list[Request], seen: Seen) -> None:
    """The youngest wait again until there are pages for a step of the others."""
    while len(running) > 1 and cache.books.short([one.slot for one in running]) > len(cache.books.free):
        youngest = running.pop()
        cache.release(youngest.slot)
        scheduler.put_back(youngest)
        seen.preempted += 1
