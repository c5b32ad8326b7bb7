"""`kv` as requests and policies give it: how much of a prompt's KV cache to keep."""

from __future__ import annotations

from pydantic import Field

from headmap.budgets import DEFAULT_UNIFORM, Allocation
from headmap.http.request_body import MAX_TOKENS, Body
from headmap.kvcache.methods import METHODS
from headmap.kvcache.plan import KVRequest
from headmap.kvcache.select import (
    DEFAULT_SELECTOR,
    MOST_POOL,
    SELECTORS,
    Observe,
    Select,
    get_selector,
)


class SelectBody(Body):
    """Which tokens a head keeps beside the most recent ones: those with the highest scores."""

    observe: Observe = Field(
        "window", description="whose attention scores a token: that of the last tokens, or of the last one alone"
    )
    window: int | None = Field(
        None, ge=1, le=MAX_TOKENS, description="last tokens of the prompt that observe; kv.window by default"
    )
    pool: int = Field(5, ge=1, le=MOST_POOL, description="neighbours over which attention is averaged")
    mix: float = Field(
        0.0, ge=0, le=1, description="how much tokens that differ from the others gain; 0 is attention alone"
    )

    def asked(self) -> Select:
        return Select(self.observe, self.window, self.pool, self.mix)


class KVBody(Body):
    """What to keep of the prompt's KV cache. Methods other than `full` take exactly one of `budget` and `ratio`."""

    method: str = Field(
        "sparsemm", max_length=64, description=", ".join(METHODS), json_schema_extra={"enum": list(METHODS)}
    )
    budget: int | None = Field(
        None, le=MAX_TOKENS, description="tokens kept per KV head, on average", json_schema_extra={"minimum": 1}
    )
    ratio: float | None = Field(None, gt=0, le=1, description="share of the prompt's tokens that is kept")
    allocation: Allocation = Field(
        "exact", description="how budgets are rounded: to exact totals, or by the paper's formula"
    )
    window: int | None = Field(
        None,
        ge=0,
        le=MAX_TOKENS,
        description="last tokens of the prompt, which observe and are kept; as the selector says by default",
    )
    keep_recent: int | None = Field(
        None, ge=0, le=MAX_TOKENS, description="last tokens of the prompt that are kept, if other than kv.window"
    )
    select: SelectBody | str | None = Field(
        None,
        description=f"which other tokens are kept: {', '.join(SELECTORS)}, or an object; "
        f"{DEFAULT_SELECTOR} by default, and snapkv for a request with kv.window",
    )
    uniform: float = Field(DEFAULT_UNIFORM, ge=0, le=1, description="share of the budget that all heads get equally")
    map: str | None = Field(None, min_length=1, max_length=64, description="id or alias of a map of this model")

    def asked(self) -> KVRequest:
        """What to keep, not checked yet (`headmap.kvcache.planning.check_request`); `map` says by which map."""
        return KVRequest(
            method=self.method,
            budget=self.budget,
            ratio=self.ratio,
            allocation=self.allocation,
            window=self.window,
            uniform=self.uniform,
            keep_recent=self.keep_recent,
            select=self.selector(),
        )

    def selector(self) -> Select | None:
        """Raises InvalidParameter for a name that is no selector's."""
        if isinstance(self.select, SelectBody):
            return self.select.asked()
        return None if self.select is None else get_selector(self.select)
