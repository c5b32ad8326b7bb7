"""Turn a caller's request into the number of tokens that one sequence keeps, before any tensor exists."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from headmap.budgets import BudgetRule, resolve_budget
from headmap.errors import InvalidParameter, MapMismatch
from headmap.head_scores import HeadScores
from headmap.kvcache.methods import get_method
from headmap.kvcache.plan import KeepPlan, KVRequest
from headmap.kvcache.shape import CacheShape


def plan_cache(request: KVRequest, shape: CacheShape, prompt_tokens: int, scores: HeadScores | None) -> KeepPlan:
    """Decide how many tokens each KV head keeps of a prompt with `prompt_tokens` tokens.

    Raises UnknownMethod, BudgetTooSmall or InvalidParameter for a bad request, MapMismatch if the shape of `scores`
    differs from the model's, and NoMapForModel if the method needs scores and there are none.
    """
    if scores is not None and (scores.num_layers, scores.num_kv_heads) != (shape.num_layers, shape.num_kv_heads):
        raise MapMismatch(
            f"kv.map: scores of {scores.num_layers} layers x {scores.num_kv_heads} KV heads do not fit a model of "
            f"{shape.num_layers} x {shape.num_kv_heads}",
            param="kv.map",
        )
    method = get_method(request.method)
    if not method.needs_budget:
        budget = _unneeded_budget(request, prompt_tokens)
    else:
        budget = resolve_budget(prompt_tokens, request.budget, request.ratio)
    request.selector.check()
    beyond = not method.needs_budget and request.window is not None and request.window >= budget
    recent, window = (replace(request, window=None) if beyond else request).recent(budget)
    rule = BudgetRule(budget, recent, request.uniform, request.allocation)
    most = shape.layer_tokens(prompt_tokens)
    tokens = np.repeat(most[:, None], shape.num_kv_heads, axis=1)
    layers = shape.budgeted_layers
    if budget < prompt_tokens and method.needs_budget and layers:
        inner = replace(shape, num_layers=len(layers), window=None, sliding_layers=())
        own = None if scores is None else scores.of_layers(layers)
        asked = method.budgets(inner, rule, prompt_tokens, own)
        tokens[layers] = np.minimum(asked, prompt_tokens)
    return KeepPlan(
        method=method.name,
        prompt_tokens=prompt_tokens,
        budget=budget,
        recent=recent,
        select=request.selector.settled(window),
        allocation=request.allocation,
        tokens=tokens,
        most=most,
        shared_out_by_prompt=method.decides_per_prompt,
    )


def check_request(request: KVRequest, map: str | None = None) -> None:
    """Reject a request that contradicts itself. This needs no prompt.

    `map`: the map that the request names. Raises UnknownMethod or BudgetTooSmall. Raises InvalidParameter if budget and
    ratio are both missing or both given, if `full` has either of them, or if a method that reads no map has one. `full`
    accepts a ratio of 1, which means the same.
    """
    method = get_method(request.method)
    request.selector.check()
    if map is not None and not method.needs_scores:
        raise InvalidParameter(f"kv.map: method {request.method!r} reads no map, got {map!r}", param="kv.map")
    if method.needs_budget:
        resolve_budget(1, request.budget, request.ratio)
        if request.budget is not None:
            request.recent(request.budget)
        return
    for name, value in (("budget", request.budget), ("ratio", request.ratio)):
        if value is not None and (name, value) != ("ratio", 1):
            raise InvalidParameter(
                f"kv.{name}: method {request.method!r} keeps the whole prompt and takes no {name}, got {value}",
                param=f"kv.{name}",
            )


def _unneeded_budget(request: KVRequest, prompt_tokens: int) -> int:
    """Check and ignore the budget of a method that keeps everything, such as `full`."""
    if request.budget is not None and request.ratio is not None:
        raise InvalidParameter("kv: give at most one of budget and ratio", param="kv.budget")
    if request.budget is not None or request.ratio is not None:
        resolve_budget(prompt_tokens, request.budget, request.ratio)
    return prompt_tokens
