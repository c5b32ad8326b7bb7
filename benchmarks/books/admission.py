"""How many requests run at once in the same KV memory, compressed and uncompressed, by the engine's own rule."""

from __future__ import annotations

from benchmarks.books import figures as of
from benchmarks.books.figures import Figures, ModelShape
from headmap.engine.scheduler import spare_pages, startable
from headmap.kvcache.pool.paging import Paging

MEMORY_BYTES, NEW_TOKENS = 40 * 10**9, 4096


def measure(figures: Figures, shape: ModelShape) -> None:
    """`started`: at one moment, in an empty pool. `running`: on average, while more always wait and each goes on to its
    last token; preempted ones are prefilled again. HEADMAP_MAX_RUNNING must allow as many."""
    paging = Paging(shape.cache)
    pages, step = MEMORY_BYTES // paging.page_bytes, paging.tail(1)
    parts = {method: paging.part(shape.plan(method)) for method in ("sparsemm", "full")}
    started = {method: startable(pages, part + step, step) for method, part in parts.items()}
    running = {method: steadily(pages, part, step) for method, part in parts.items()}
    for method, count in started.items():
        figures.add(f"requests started at 40 GB, 8K prompts, {method}", shape.name, count, "requests")
    figures.add(of.STARTED, shape.name, started["sparsemm"] / started["full"], "x")
    figures.add(of.RUNNING, shape.name, running["sparsemm"] / running["full"], "x")


def steadily(pages: int, part: int, step: int, new_tokens: int = NEW_TOKENS, lives: int = 12) -> float:
    """Mean number of sequences that run over the second half of `lives` lives, counted by a page's worth of steps.

    Each holds `part` pages and `step` more for each page's worth of tokens. The youngest is preempted where pages run
    short, and goes on from the tokens it had.
    """
    chunks = new_tokens // Paging.page_tokens
    running: list[int] = []  # chunks of each sequence, the oldest first
    waiting: list[int] = []
    counts = []
    for _ in range(lives * chunks):
        while True:
            free = pages - sum(part + held * step for held in running)
            first = waiting[-1] if waiting else 1
            if part + first * step > spare_pages(free, len(running), step):
                break
            running.append(waiting.pop() if waiting else 1)
        counts.append(len(running))
        running = [held for held in running if held < chunks]
        while len(running) > 1 and sum(part + (held + 1) * step for held in running) > pages:
            waiting.append(running.pop())
        running = [held + 1 for held in running]
    return sum(counts[len(counts) // 2 :]) / (len(counts) - len(counts) // 2)
