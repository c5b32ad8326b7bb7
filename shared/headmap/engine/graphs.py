"""Decode steps captured as CUDA graphs, one for each power of two of sequences, good until the model is unloaded.

A step of a small batch is hundreds of short kernels; replayed as one graph, the device does not wait for Python between
them. The pool and its integers never move, so what changes is copied into a few tensors whose addresses the graph
knows. A step with fewer sequences than its graph is padded with the pool's idle slot.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch

from headmap.device_errors import is_out_of_memory
from headmap.kvcache.backends.base import DecodeBackend
from headmap.kvcache.transformers.decode import DecodeCache

log = logging.getLogger(__name__)

Forward = Callable[[torch.Tensor, torch.Tensor, DecodeCache], torch.Tensor]
Capture = Callable[[Callable[[], torch.Tensor]], tuple[Callable[[], None], torch.Tensor]]


class CudaCapture:
    """Captures steps on one device; all graphs share one memory pool, since one runs at a time."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, step: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor]:
        """A function that replays `step`, and the tensor that then holds the result."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            step()  # compiles kernels and opens libraries, which cannot be captured
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads may allocate meanwhile: only this thread's calls have to be capturable.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            result = step()
        return graph.replay, result


@dataclass(frozen=True)
class _Captured:
    tokens: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    replay: Callable[[], None]
    logits: torch.Tensor


class GraphedDecoder:
    """Runs `forward` by graphs. `replayed` and `plain` count steps with and without a graph."""

    def __init__(self, forward: Forward, backend: DecodeBackend, capture: Capture) -> None:
        self._forward, self._backend, self._capture = forward, backend, capture
        self._captured: dict[int, _Captured] = {}
        self._refused: set[int] = set()
        self.replayed = self.plain = 0

    def step(self, cache: DecodeCache, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Logits (S, vocab) of one token of each sequence, until the next step. `tokens`: (S, 1), `positions`: (S,)."""
        count = len(tokens)
        captured = self._graph(1 << (count - 1).bit_length(), tokens.device)
        if captured is None:
            self.plain += 1
            return self._forward(tokens, positions, cache)
        captured.tokens[:count].copy_(tokens)
        captured.positions[:count].copy_(positions)
        captured.slots[:count].copy_(cache.slots)
        captured.slots[count:].fill_(self._backend.pool.books.slots)
        captured.replay()
        self.replayed += 1
        return captured.logits[:count]

    def _graph(self, size: int, device: torch.device) -> _Captured | None:
        """The graph for `size` sequences, captured at its first use; None if there is no memory for it."""
        if size not in self._captured and size not in self._refused:
            tokens, positions, slots = torch.zeros(3, size, dtype=torch.int64, device=device)
            slots.fill_(self._backend.pool.books.slots)
            step = DecodeCache(self._backend, slots)
            try:
                replay, logits = self._capture(lambda: self._forward(tokens[:, None], positions, step))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                log.warning("no memory for a graph of %d sequences: such steps run without", size)
                self._refused.add(size)
            else:
                self._captured[size] = _Captured(tokens[:, None], positions, slots, replay, logits)
        return self._captured.get(size)
