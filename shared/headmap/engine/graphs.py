"""Decode steps captured as CUDA graphs, one for each power of two of sequences.

A step of a small batch is hundreds of short kernels; replayed as one graph, the device does not wait for Python between
them. What changes from step to step (tokens, positions, slots, the places to write to) is copied into tensors whose
addresses the graph knows; a step of fewer sequences than its graph is filled up with a scratch sequence. When the
cache's tensors move, which they do while it fills, steps run as they are until it has been at rest for a while.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from headmap.device_errors import is_out_of_memory
from headmap.kvcache.transformers.cache import DecodeCache, RaggedCache

STEPS_AT_REST = 8
"""Steps without a move of the cache before one is captured: capturing costs about as much as a dozen steps."""

Forward = Callable[[torch.Tensor, torch.Tensor, DecodeCache], torch.Tensor]
Capture = Callable[[Callable[[], torch.Tensor]], tuple[Callable[[], None], torch.Tensor]]


def capture_on_cuda(step: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor]:
    """Capture `step`; returns what replays it and the tensor that then holds its result."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()  # compiles kernels and opens libraries, which cannot be captured
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = step()
    return graph.replay, result


@dataclass(frozen=True)
class _Captured:
    tokens: torch.Tensor
    positions: torch.Tensor
    step: DecodeCache
    replay: Callable[[], None]
    logits: torch.Tensor


class GraphedDecoder:
    """Runs one token of several sequences as `forward(tokens, positions, cache)` does, by replaying it.

    `forward`: tokens (S, 1) and positions (S,) int64 on the cache's device in, logits (S, vocab) out; it may touch the
    cache only through what it is given, and must read no value on the host. One sequence of the cache is taken for
    scratch.
    """

    def __init__(
        self,
        forward: Forward,
        cache: RaggedCache,
        capture: Capture = capture_on_cuda,
        steps_at_rest: int = STEPS_AT_REST,
    ) -> None:
        self._forward, self._cache, self._capture = forward, cache, capture
        self.steps_at_rest, self._at_rest = steps_at_rest, 0
        self._layout = cache.layout
        shape = cache.shape
        self._scratch = cache.admit(shape.num_layers * shape.num_kv_heads * cache.block_bytes)
        cache.decode([self._scratch])
        self._captured: dict[int, _Captured] = {}

    def step(self, slots: Sequence[int], tokens: Sequence[int], positions: Sequence[int]) -> torch.Tensor:
        """Logits (len(slots), vocab); they hold until the next step."""
        with self._cache.step(slots) as now:
            return self._run(now, slots, tokens, positions)

    def _run(
        self, now: DecodeCache, slots: Sequence[int], tokens: Sequence[int], positions: Sequence[int]
    ) -> torch.Tensor:
        cache, count = self._cache, len(slots)
        self._at_rest = self._at_rest + 1 if cache.layout == self._layout else 0
        self._layout = cache.layout
        if self._at_rest < self.steps_at_rest:
            self._captured.clear()
            return self._as_it_is(now, tokens, positions)
        size = 1 << (count - 1).bit_length()
        captured = self._captured.get(size) or self._empty(size)
        heads = cache.shape.num_kv_heads
        captured.tokens[:count, 0].copy_(torch.tensor(tokens))
        captured.positions[:count].copy_(torch.tensor(positions))
        captured.step.slots[:count] = now.slots
        captured.step.places[:, : count * heads] = now.places
        if count < size:
            scratch = torch.from_numpy(cache.tables.last_places(self._scratch)).to(cache.device)
            captured.step.slots[count:] = self._scratch
            captured.step.places[:, count * heads :] = scratch.repeat(1, size - count)
        if size not in self._captured:
            try:
                captured = self._captured[size] = self._record(captured)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                self._at_rest = 0  # tried again after another while
                return self._as_it_is(now, tokens, positions)
        captured.replay()
        return captured.logits[:count]

    def _as_it_is(self, now: DecodeCache, tokens: Sequence[int], positions: Sequence[int]) -> torch.Tensor:
        device = self._cache.device
        return self._forward(torch.tensor(tokens, device=device)[:, None], torch.tensor(positions, device=device), now)

    def _empty(self, size: int) -> _Captured:
        cache = self._cache
        tokens, positions, slots = torch.zeros(3, size, dtype=torch.int64, device=cache.device)
        places = torch.zeros(
            (cache.shape.num_layers, size * cache.shape.num_kv_heads), dtype=torch.int64, device=cache.device
        )
        step = DecodeCache(cache, slots, places)
        return _Captured(tokens[:, None], positions, step, lambda: None, tokens)

    def _record(self, empty: _Captured) -> _Captured:
        replay, logits = self._capture(lambda: self._forward(empty.tokens, empty.positions, empty.step))
        return _Captured(empty.tokens, empty.positions, empty.step, replay, logits)
