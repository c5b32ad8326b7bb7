"""A scorer without a model: made-up scores that depend on the page alone, as the real one's do."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from headmap.jobs.work import OnPage, ShardResult, ShardSpec
from headmap.models import ModelInfo

LAYERS, HEADS, KV_HEADS = 3, 4, 2

INFO = ModelInfo(
    name="fake/model",
    folder=Path("nowhere"),
    revision="r1",
    architecture="FakeForConditionalGeneration",
    family="qwen2_vl",
    num_layers=LAYERS,
    num_heads=HEADS,
    num_kv_heads=KV_HEADS,
    max_positions=4096,
)


class FakeScorer:
    """`pause`: seconds a page takes, so that a test can kill a worker in the middle of a shard."""

    def __init__(self, *, pause: float = 0.0, shape: tuple[int, int] = (LAYERS, HEADS)) -> None:
        self.pause = pause
        self.shape = shape

    def __call__(self, spec: ShardSpec, on_page: OnPage) -> ShardResult:
        sums, squares = np.zeros(self.shape), np.zeros(self.shape)
        for index in range(spec.count):
            scores = np.random.default_rng([spec.seed, spec.first + index]).random(self.shape) ** 4
            sums += scores
            squares += scores**2
            time.sleep(self.pause)
            on_page(index + 1)
        return ShardResult(spec.count, 10 * spec.count, 9 * spec.count, 7 * spec.count, sums, squares)


class CountingBroker:
    """Keeps what it is told; `away` as if it could not be reached."""

    def __init__(self, *, away: bool = False, waiting: int = 0) -> None:
        self.sent: list[tuple[str, int]] = []
        self.away = away
        self.messages = waiting

    def enqueue(self, shards: Iterable[tuple[str, int]]) -> None:
        if self.away:
            raise OSError("nobody there")
        self.sent.extend(shards)

    def waiting(self) -> int:
        if self.away:
            raise OSError("nobody there")
        return self.messages
