"""What one sequence keeps of its prompt, in integers: settled before any tensor exists."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from headmap.budgets import DEFAULT_UNIFORM, Allocation, BudgetRule, Ints, resolve_budget, resolve_window
from headmap.errors import InvalidParameter, MapMismatch
from headmap.head_scores import HeadScores

if TYPE_CHECKING:
    from headmap.kvcache.methods.base import Method


@dataclass(frozen=True)
class CacheShape:
    """The shape of a model's KV cache. `itemsize` is bytes per element of a key or value.

    sliding_layers: those that attend to the last `window` tokens only. They hold exactly these whatever is asked for;
    budgets are for the other layers.
    """

    num_layers: int
    num_kv_heads: int
    head_dim: int
    itemsize: int
    window: int | None = None
    sliding_layers: tuple[int, ...] = ()

    @property
    def token_bytes(self) -> int:
        """Bytes of one token's key and value in one KV head of one layer."""
        return 2 * self.head_dim * self.itemsize

    def window_of(self, layer_idx: int) -> int | None:
        """The layer's sliding window, None where it sees everything."""
        return self.window if layer_idx in self.sliding_layers else None

    def layer_tokens(self, prompt_tokens: int) -> Ints:
        """(num_layers,) int64: the most that a head of each layer has to hold of a prompt."""
        tokens = np.full(self.num_layers, prompt_tokens, dtype=np.int64)
        if self.window is not None:
            tokens[list(self.sliding_layers)] = min(prompt_tokens, self.window)
        return tokens

    def full_tokens(self, prompt_tokens: int) -> int:
        """Tokens over all layers and KV heads when nothing is evicted that a layer can see."""
        return int(self.layer_tokens(prompt_tokens).sum()) * self.num_kv_heads

    @property
    def budgeted_layers(self) -> list[int]:
        """The layers whose heads' caches a budget sizes."""
        return [layer_idx for layer_idx in range(self.num_layers) if layer_idx not in self.sliding_layers]


@dataclass(frozen=True)
class KVRequest:
    """What a caller asks of the cache. Give `budget` (tokens per head, average) or `ratio` (share of the prompt)."""

    method: str = "full"
    budget: int | None = None
    ratio: float | None = None
    allocation: Allocation = "exact"
    window: int | None = None
    uniform: float = DEFAULT_UNIFORM


@dataclass(frozen=True)
class KeepPlan:
    """How many tokens each KV head keeps of a prompt of `prompt_tokens`.

    `tokens`: (num_layers, num_kv_heads) int64. Where the method decides per prompt within a layer, only the sums over
    heads are binding. The last `window` tokens are always kept. `most`: (num_layers,) int64, what a head holds when it
    keeps all that its layer sees.
    """

    method: Method
    prompt_tokens: int
    budget: int
    window: int
    allocation: Allocation
    tokens: Ints
    most: Ints

    @property
    def keeps_all(self) -> bool:
        return bool((self.tokens >= self.most[:, None]).all())

    @property
    def kept_tokens(self) -> int:
        return int(self.tokens.sum())


def plan_cache(
    request: KVRequest, method: Method, shape: CacheShape, prompt_tokens: int, scores: HeadScores | None
) -> KeepPlan:
    """Settle the budgets of one sequence.

    Raises UnknownMethod, BudgetTooSmall or InvalidParameter for a bad request, and MapMismatch where `scores` are of
    another shape than the model.
    """
    if scores is not None and (scores.num_layers, scores.num_kv_heads) != (shape.num_layers, shape.num_kv_heads):
        raise MapMismatch(
            f"kv.map: scores of {scores.num_layers} layers x {scores.num_kv_heads} KV heads do not fit a model of "
            f"{shape.num_layers} x {shape.num_kv_heads}",
            param="kv.map",
        )
    if not method.needs_budget:
        budget = _unneeded_budget(request, prompt_tokens)
    else:
        budget = resolve_budget(prompt_tokens, request.budget, request.ratio)
    beyond = not method.needs_budget and request.window is not None and request.window >= budget
    window = resolve_window(budget, None if beyond else request.window)  # a short prompt kept whole needs no window
    rule = BudgetRule(budget, window, request.uniform, request.allocation)
    most = shape.layer_tokens(prompt_tokens)
    tokens = np.repeat(most[:, None], shape.num_kv_heads, axis=1)
    layers = shape.budgeted_layers
    if budget < prompt_tokens and method.needs_budget and layers:
        inner = replace(shape, num_layers=len(layers), window=None, sliding_layers=())
        own = None if scores is None else scores.of_layers(layers)
        asked = method.budgets(inner, rule, prompt_tokens, own)
        tokens[layers] = np.minimum(asked, prompt_tokens)
    return KeepPlan(method, prompt_tokens, budget, window, request.allocation, tokens, most)


def _unneeded_budget(request: KVRequest, prompt_tokens: int) -> int:
    """`full` keeps everything; a budget beside it is checked, then means nothing."""
    if request.budget is not None and request.ratio is not None:
        raise InvalidParameter("kv: give at most one of budget and ratio", param="kv.budget")
    if request.budget is not None or request.ratio is not None:
        resolve_budget(prompt_tokens, request.budget, request.ratio)
    return prompt_tokens
