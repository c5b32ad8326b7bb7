"""Times of the host's work for the pool, without the tensors: the pool is on torch's meta device and copies no byte.

Integers are sent as to a GPU, but go nowhere. Everything else is the serving code.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import fmean, median
from time import perf_counter

import numpy as np
import torch

from benchmarks.books import figures as of
from benchmarks.books.figures import LONG_PROMPT_TOKENS, Figures, ModelShape
from headmap.kvcache.pool.paging import PAGE_TOKENS, Paging
from headmap.kvcache.pool.pool import Pool
from headmap.kvcache.transformers.cache import RaggedCache

SEQUENCES = 32
META = torch.device("meta")


def measure(figures: Figures, shape: ModelShape, *, pages_of_steps: int = 8, repeats: int = 25) -> None:
    """Milliseconds; medians, but for the mean over `pages_of_steps` pages' worth of steps."""
    cache = meta_cache(shape, pages_of_steps * PAGE_TOKENS)
    plan = shape.plan("sparsemm")
    slots = []
    admitting = []
    for _ in range(SEQUENCES):
        admitting.append(_milliseconds(lambda: slots.append(cache.admit(plan))))
        for layer_idx in range(shape.cache.num_layers):
            cache.books.place(slots[-1], layer_idx, plan.tokens[layer_idx])
        cache.books.seal(slots[-1])
    figures.add(of.ADMIT, shape.name, median(admitting), "ms")
    steps = [_milliseconds(lambda: step(cache, slots)) for _ in range(pages_of_steps * PAGE_TOKENS)]
    figures.add(of.STEP, shape.name, median(steps), "ms")
    figures.add(of.STEP_MEAN, shape.name, fmean(steps), "ms")
    figures.add(
        of.RELEASE, shape.name, median(_milliseconds(lambda: cache.release(slots.pop())) for _ in slots[:]), "ms"
    )
    placing, releasing_long = _long_prompt(cache, shape, repeats)
    figures.add(of.PLACE, shape.name, median(placing), "ms")
    figures.add(of.RELEASE_LONG, shape.name, median(releasing_long), "ms")


def meta_cache(shape: ModelShape, new_tokens: int) -> RaggedCache:
    """Room for SEQUENCES compressed prompts with `new_tokens` each, or for one long uncompressed prompt."""
    paging = Paging(shape.cache)
    compressed = SEQUENCES * paging.sequence(shape.plan("sparsemm"), new_tokens)
    pages = max(compressed, paging.sequence(shape.plan("full", LONG_PROMPT_TOKENS), 1))
    pool = Pool(
        shape.cache, memory_bytes=pages * paging.page_bytes, slots=SEQUENCES,
        max_tokens=LONG_PROMPT_TOKENS + new_tokens, dtype=torch.bfloat16, device=META,
    )  # fmt: skip
    return RaggedCache(pool, "torch")


def step(cache: RaggedCache, slots: list[int]) -> None:
    """A decode step without the model and the choice of tokens, as in `Engine` and `ModelRunner`."""
    cache.books.short(slots)
    torch.tensor(slots, device=META)[:, None]  # the step's tokens and their positions
    torch.tensor(slots, device=META)
    with cache.step(slots):
        pass


def _long_prompt(cache: RaggedCache, shape: ModelShape, repeats: int) -> tuple[list[float], list[float]]:
    """Place each layer of an uncompressed prompt, as `PrefillCache` does, and release it."""
    heads, pool = shape.cache.num_kv_heads, cache.pool
    plan = shape.plan("full", LONG_PROMPT_TOKENS)
    keys = torch.empty((heads, LONG_PROMPT_TOKENS, shape.cache.head_dim), dtype=torch.bfloat16, device=META)
    placing, releasing = [], []

    def place(slot: int, layer_idx: int) -> None:
        pages = cache.books.place(slot, layer_idx, np.full(heads, LONG_PROMPT_TOKENS))
        pool.write_rows(pages.reshape(heads, -1), keys, keys)

    for _ in range(repeats):
        slot = cache.admit(plan)
        placing += [_milliseconds(partial(place, slot, layer_idx)) for layer_idx in range(shape.cache.num_layers)]
        cache.books.seal(slot)
        releasing.append(_milliseconds(partial(cache.release, slot)))
    return placing, releasing


def _milliseconds(work: Callable[[], object]) -> float:
    started = perf_counter()
    work()
    return (perf_counter() - started) * 1e3
