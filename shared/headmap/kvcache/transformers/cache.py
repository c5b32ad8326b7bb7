"""The engine's ragged cache: the sequences of one pool, and the caches passed to a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from headmap.budgets import Ints
from headmap.kvcache.backends import make_backend
from headmap.kvcache.backends.base import DecodeBackend
from headmap.kvcache.plan import KeepPlan
from headmap.kvcache.pool.paging import PAGE_TOKENS, Paging
from headmap.kvcache.pool.pool import Pool
from headmap.kvcache.shape import CacheShape
from headmap.kvcache.transformers.decode import DecodeCache
from headmap.kvcache.transformers.extend import ExtendCache
from headmap.kvcache.transformers.on_top import ParkedSequence
from headmap.kvcache.transformers.prefill import PrefillCache, Prompt


class RaggedCache:
    """Keys and values of all running sequences. It is not thread-safe; one engine thread owns it.

    `backend` is the name of a decode backend; see `make_backend`.
    """

    def __init__(self, pool: Pool, backend: str | DecodeBackend = "auto") -> None:
        self.pool = pool
        self.books = pool.books
        self.paging = pool.books.paging
        self.shape = pool.shape
        self.backend = make_backend(backend, pool) if isinstance(backend, str) else backend

    @classmethod
    def for_plans(
        cls,
        plans: Sequence[KeepPlan],
        new_tokens: int,
        shape: CacheShape,
        *,
        dtype: torch.dtype,
        device: torch.device,
        page_tokens: int = PAGE_TOKENS,
        backend: str = "auto",
    ) -> RaggedCache:
        """Make a cache with just enough room for the given sequences, each with `new_tokens` after its prompt."""
        paging = Paging(shape, page_tokens)
        pages = sum(paging.sequence(plan, new_tokens) for plan in plans)
        pool = Pool(
            shape, memory_bytes=pages * paging.page_bytes, slots=len(plans), max_tokens=max(new_tokens, 1),
            dtype=dtype, device=device, page_tokens=page_tokens,
        )  # fmt: skip
        return cls(pool, backend)

    def admit(self, plan: KeepPlan, new_tokens: int = 1, past: ParkedSequence | None = None) -> int:
        """Take a slot with room for the plan's kept tokens, `past` and `new_tokens` more. Raises OutOfMemory."""
        return self.books.admit(plan, new_tokens, None if past is None else past.lengths)

    def release(self, slot: int) -> None:
        """Remove a sequence. This changes a few integers and touches nothing on the device."""
        self.books.release(slot)

    def prefill(self, prompts: Sequence[Prompt], on_layer: Callable[[], None] | None = None) -> PrefillCache:
        return PrefillCache(self.backend, prompts, on_layer)

    def extend(self, slot: int, tokens: int, on_layer: Callable[[], None] | None = None) -> ExtendCache:
        return ExtendCache(self.backend, slot, tokens, on_layer)

    @contextmanager
    def step(self, slots: Sequence[int]) -> Iterator[DecodeCache]:
        """The cache for one token of each slot in `slots`. An error in the context removes the tokens again.

        After a failed step each of its sequences must be in the next step or be released. Some layers may already have
        written the sequence's token; the next step writes it again to the same place. Raises OutOfMemory before
        anything changes.
        """
        cache = self.step_for_good(slots)
        try:
            yield cache
        except BaseException:
            self.books.undo(np.asarray(slots, dtype=np.int64))
            raise

    def step_for_good(self, slots: Sequence[int]) -> DecodeCache:
        """Like `step`, but does not undo a failed step."""
        order = np.asarray(slots, dtype=np.int64)
        self.books.append(order)
        return DecodeCache(self.backend, torch.from_numpy(order).to(self.pool.device))

    @torch.inference_mode()
    def fork(self, slot: int, new_tokens: int = 1) -> int:
        """Take a slot that continues the same prompt. It reads the same part and has its own window."""
        to, ring = self.books.fork(slot, new_tokens), self.books.ring
        for layer_idx in ring.layers:
            held = int(ring.tokens.host[slot])
            pages, own = (ring.pages(of, layer_idx, held).reshape(-1) for of in (slot, to))
            self.pool.copy(pages, own)
        return to

    @torch.inference_mode()
    def park(self, slot: int) -> ParkedSequence:
        """Copy a sequence's tokens to host memory, without unused room. The slot does not change."""
        layers = []
        for layer_idx in range(self.shape.num_layers):
            rows = [self.row(layer_idx, slot, head) for head in range(self.shape.num_kv_heads)]
            keys, values = (torch.cat(tensors).cpu() for tensors in zip(*rows, strict=True))
            layers.append((keys, values))
        return ParkedSequence(self.lengths(slot), tuple(layers))

    def row(self, layer_idx: int, slot: int, head: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Copy one head's keys and values, (n, head_dim) each. In sliding layers the oldest token comes first."""
        keys, values = self.pool.row(slot, layer_idx, head)
        oldest = self.books.ring.oldest(slot) if layer_idx in self.books.ring.layers else 0
        return keys.roll(-oldest, 0), values.roll(-oldest, 0)

    def lengths(self, slot: int) -> Ints:
        """(num_layers, num_kv_heads) int64: the number of tokens that each head holds."""
        return self.books.lengths(slot)

    def tokens(self, slot: int) -> int:
        """The number of tokens held for a sequence, over all layers and KV heads."""
        return int(self.books.lengths(slot).sum())

    def prompt_bytes(self, slot: int) -> int:
        """Bytes of the pages that hold a sequence's prompt."""
        return self.books.prompt_pages(slot) * self.pool.page_bytes
