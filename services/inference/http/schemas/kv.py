"""`kv` in every dialect: what to keep of a prompt's KV cache, and what an answer tells of it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from headmap.budgets import DEFAULT_UNIFORM, Allocation
from headmap.kvcache.methods import METHODS
from headmap.kvcache.plan import KVRequest
from services.inference.http.schemas.fields import MAX_LAYERS, MAX_TOKENS, Body


class KVBody(Body):
    """What to keep of the prompt's KV cache. Methods other than `full` take exactly one of `budget` and `ratio`.

    A request without `kv` is served with `full`, unless HEADMAP_DEFAULT_KV_RATIO says otherwise.
    """

    method: str = Field(
        "sparsemm", max_length=64, description=", ".join(METHODS), json_schema_extra={"enum": list(METHODS)}
    )
    budget: int | None = Field(
        None, le=MAX_TOKENS, description="tokens per KV head, on average", json_schema_extra={"minimum": 1}
    )
    ratio: float | None = Field(None, gt=0, le=1, description="share of the prompt's tokens")
    allocation: Allocation = Field("exact", description="exact totals, or the paper's formula as it is")
    window: int | None = Field(
        None, ge=0, le=MAX_TOKENS, description="last tokens that are always kept; min(32, budget // 2) when left out"
    )
    uniform: float = Field(DEFAULT_UNIFORM, ge=0, le=1, description="share of the budget that every head gets alike")
    map: str | None = Field(None, min_length=1, max_length=64, description="id or alias of a head map of this model")


def asked_kv(body: KVBody | None) -> tuple[KVRequest | None, str | None]:
    """What to keep, and the map to do it by."""
    if body is None:
        return None, None
    kv = KVRequest(
        method=body.method,
        budget=body.budget,
        ratio=body.ratio,
        allocation=body.allocation,
        window=body.window,
        uniform=body.uniform,
    )
    return kv, body.map


class KVHeadBody(Body):
    layer: int = Field(ge=0, le=MAX_LAYERS)
    kv_head: int = Field(ge=0, le=MAX_LAYERS, description="of that layer")


class KVDetails(BaseModel):
    """What was really kept. `method` is the one that ran: snapkv where sparsemm was asked and there is no map."""

    method: str
    budget: int = Field(description="tokens per KV head, on average, of the layers that do not slide")
    allocation: Allocation
    map_id: str | None = Field(description="the map whose scores set the budgets")
    map_match: Literal["exact", "revision", "none"] | None = Field(
        description="of the served revision, of another one, or none there; null for methods without a map"
    )
    kept_tokens: int = Field(
        description="after prefill, over all layers and KV heads; a layer with a sliding window holds just that"
    )
    full_tokens: int = Field(description="the same with nothing evicted that a layer can see")
    bytes: int
    full_bytes: int


class KeptInPicture(BaseModel):
    """What a KV head keeps of one picture, as a grid to draw over it. A token that shows no one place (a row's end, the
    picture as a whole) is in no cell."""

    start: int = Field(description="index in the prompt of the picture's first token")
    tokens: int = Field(description="from the picture's first token to its last")
    kept_tokens: int = Field(description="how many of them it keeps")
    x: list[float] = Field(description="the columns' borders in the picture's pixels, one more than columns")
    y: list[float] = Field(description="the rows' borders; models that pad have some past the picture's edge")
    cells: list[list[bool]] = Field(description="row by row, whether it keeps the token that shows the cell")


class KeptTokensBody(BaseModel):
    """What one KV head keeps of the prompt."""

    layer: int
    kv_head: int
    positions: list[int] = Field(description="indices in the prompt, ascending")
    pictures: list[KeptInPicture] = Field(description="in the order of the prompt")


class SessionDetails(BaseModel):
    """hit: whether the prompt went on from what was kept. kept: whether this turn is kept for the next."""

    hit: bool
    reused_tokens: int = Field(description="prompt tokens that needed no prefill")
    kept: bool
