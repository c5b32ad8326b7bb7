"""A scorer without a model: made-up scores that depend on the page alone, as the real one's do."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from headmap.jobs.queues import JobQueue
from headmap.jobs.work import OnPage, ShardResult, ShardSpec
from headmap.looks import PAGES_WITH_LOOKS, PageLooks, small_jpeg
from headmap.models import ModelInfo
from headmap.page_sums import PageSums

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
QUEUE = JobQueue(INFO.name, INFO.revision)


class FakeScorer:
    """`pause`: seconds a page takes, so that a test can kill a worker in the middle of a shard."""

    def __init__(self, *, pause: float = 0.0, shape: tuple[int, int] = (LAYERS, HEADS)) -> None:
        self.pause = pause
        self.shape = shape

    def __call__(self, spec: ShardSpec, on_page: OnPage) -> ShardResult:
        total = PageSums.none(*self.shape)
        looks = {}
        for number in range(spec.first, spec.first + spec.count):
            scores = page_scores(spec.seed, number, self.shape)
            total += PageSums.of_page(number, scores, tokens_seen=10, tokens_matched=9, hits=7)
            if number < PAGES_WITH_LOOKS:
                looks[number] = page_looks(number, self.shape)
            time.sleep(self.pause)
            on_page(total.pages)
        return ShardResult(total.to_bytes(), looks)


def page_scores(seed: int, number: int, shape: tuple[int, int] = (LAYERS, HEADS)) -> np.ndarray:
    """Of one page, from nothing but its series and its number."""
    return np.random.default_rng([seed, number]).random(shape) ** 4


def page_looks(number: int, shape: tuple[int, int] = (LAYERS, HEADS)) -> PageLooks:
    """A page of two words on a grid of 2 x 3 cells of 20 px. Head h looks at cell h for the first word's token and
    elsewhere for the second's; head 0 of each layer hits."""
    cells = np.stack([np.tile(np.arange(shape[1]) % 6, (shape[0], 1)), np.full(shape, -1)], axis=-1)
    hits = np.zeros((*shape, 2), dtype=np.bool_)
    hits[:, 0, 0] = True
    return PageLooks(
        width=60,
        height=40,
        picture=small_jpeg(Image.new("RGB", (60, 40), (255, 240, min(255, 20 * number)))),
        words=(("AB", (2, 2, 18, 18)), ("CD", (42, 22, 58, 38))),
        tokens=("AB", "C"),
        token_words=(0, 1),
        x_edges=(0.0, 20.0, 40.0, 60.0),
        y_edges=(0.0, 20.0, 40.0),
        cells=cells.astype(np.int32),
        hits=hits,
    )


class CountingBroker:
    """Keeps what it is told; `away` as if it could not be reached. `waiting`: messages in each model's queue."""

    def __init__(self, *, away: bool = False, waiting: int = 0) -> None:
        self.sent: list[tuple[str, int]] = []
        self.queues: set[str] = set()
        self.away = away
        self.messages = waiting

    def enqueue(self, queue: JobQueue, shards: Iterable[tuple[str, int]]) -> None:
        if self.away:
            raise OSError("nobody there")
        self.sent.extend(shards)
        self.queues.add(queue.name)

    def waiting(self, queues: Iterable[JobQueue]) -> dict[JobQueue, int]:
        if self.away:
            raise OSError("nobody there")
        return {queue: self.messages if queue.device is None else 0 for queue in queues}
