"""The figures of the engine's books, each with its bar, where there is one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from benchmarks.report import Recorder
from benchmarks.skew import published_skew
from headmap.kvcache.plan import KeepPlan, KVRequest
from headmap.kvcache.planning import plan_cache
from headmap.kvcache.shape import CacheShape

PROMPT_TOKENS, LONG_PROMPT_TOKENS, BUDGET = 8192, 32_768, 256


@dataclass(frozen=True)
class ModelShape:
    """A published model's cache; no weights are needed."""

    name: str
    num_heads: int
    cache: CacheShape

    def plan(self, method: str, prompt_tokens: int = PROMPT_TOKENS) -> KeepPlan:
        """`full`, or `sparsemm` with BUDGET tokens a head under a map as concentrated as the published one."""
        cache = self.cache
        if method == "full":
            return plan_cache(KVRequest("full"), cache, prompt_tokens, None)
        scores = published_skew(cache.num_layers, self.num_heads, cache.num_kv_heads)
        return plan_cache(KVRequest(method, budget=BUDGET), cache, prompt_tokens, scores)

    def with_head_dim(self, head_dim: int) -> ModelShape:
        """The same books over smaller tensors."""
        return replace(self, cache=replace(self.cache, head_dim=head_dim))


VICUNA = ModelShape("Vicuna-7B, MHA, 32 layers x 32 KV heads", 32, CacheShape(32, 32, 128, 2))
QWEN = ModelShape("Qwen2-VL-7B, GQA, 28 layers x 4 KV heads", 28, CacheShape(28, 4, 128, 2))
LARGE = ModelShape("72B, GQA, 80 layers x 8 KV heads", 64, CacheShape(80, 8, 128, 2))
SHAPES = (VICUNA, QWEN, LARGE)

STEP = "books of a decode step, 32 sequences"
STEP_MEAN = "the same, mean over a page's worth of steps"
RELEASE = "release of a sequence, 8K prompt at B = 256"
RELEASE_LONG = "release of a sequence, full 32K prompt"
PLACE = "books of placing a full 32K prompt, a layer"
ADMIT = "admission of a sequence, 8K prompt at B = 256"
REPLAYED = "steps that replay a graph"
CAPTURED = "graphs captured meanwhile"
TENSORS = "tensors over capacity, without the spare page"
TOLD = "told bytes over held pages, farthest from 1"
STARTED = "requests started at 40 GB, 8K prompts, over `full`"
RUNNING = "requests running at 40 GB to the end of 4,096 tokens, over `full`"
PACK = "first tokens of 16 prompts at once over one by one"
LATE = "latest first token beyond its own alone, over the pack's time"


@dataclass(frozen=True)
class Bar:
    value: float
    kind: Literal["at most", "at least", "exactly"] = "at most"

    def holds(self, value: float) -> bool:
        if self.kind == "exactly":
            return value == self.value
        return value <= self.value if self.kind == "at most" else value >= self.value


Bars = Mapping[tuple[str, str | None], Bar]
BARS: dict[tuple[str, str | None], Bar] = {
    (STEP, VICUNA.name): Bar(0.3),
    (STEP, LARGE.name): Bar(0.6),
    (RELEASE, None): Bar(1.0),
    (RELEASE_LONG, None): Bar(1.0),
    (PLACE, None): Bar(2.0),
    (REPLAYED, None): Bar(1.0, "at least"),
    (TENSORS, None): Bar(1.0, "exactly"),
    (TOLD, None): Bar(1.0, "exactly"),
    (STARTED, VICUNA.name): Bar(12.0, "at least"),
    (PACK, "text alone"): Bar(0.6),
    (LATE, None): Bar(1.0),
}
"""By figure and shape; None is every shape."""


class Figures:
    """Records rows: `{figure, shape, value, unit, bar, holds}`; a row without a bar misses none."""

    def __init__(self, record: Recorder, bars: Bars) -> None:
        self.record, self._bars = record, bars

    def add(self, figure: str, shape: str, value: float, unit: str) -> None:
        bar = self._bars.get((figure, shape), self._bars.get((figure, None)))
        row: dict[str, Any] = {
            "figure": figure, "shape": shape, "value": value, "unit": unit,
            "bar": None if bar is None else bar.value, "holds": bar is None or bar.holds(value),
        }  # fmt: skip
        said = "" if bar is None else f"  ({bar.kind} {bar.value:g}{'' if row['holds'] else ': MISSED'})"
        self.record.add(row, f"{figure}  {shape}  {value:.3f} {unit}{said}")
