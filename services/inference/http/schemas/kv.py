"""`kv` in every dialect: how much of the KV cache a request asks to keep, and how much its answer kept."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from headmap.budgets import Allocation
from headmap.http.kv_body import KVBody
from headmap.kvcache.select import Observe
from services.inference.http.schemas.fields import MAX_LAYERS, Body


class RequestKV(KVBody):
    """What to keep of the prompt's KV cache. Methods other than `full` take exactly one of `budget` and `ratio`.

    A request without `kv` is served with `full`, unless HEADMAP_DEFAULT_POLICY or HEADMAP_DEFAULT_KV_RATIO says
    otherwise.
    """

    policy: str | None = Field(
        None, min_length=1, max_length=64, description="name of a policy of this model, given alone: it says the rest"
    )


class KVHeadBody(Body):
    layer: int = Field(ge=0, le=MAX_LAYERS)
    kv_head: int = Field(ge=0, le=MAX_LAYERS, description="a KV head of this layer, from 0")


class SelectDetails(BaseModel):
    """The selector that chose the tokens. `name`: null if it has none."""

    name: str | None
    observe: Observe
    window: int = Field(description="last tokens of the prompt that observed")
    pool: int
    mix: float


class KVDetails(BaseModel):
    """The kept cache. `method` is the method that ran: snapkv if the request names sparsemm and there is no map."""

    method: str
    budget: int = Field(description="tokens per KV head, on average over the layers without a sliding window")
    allocation: Allocation
    keep_recent: int | None = Field(description="last tokens of the prompt that every head keeps; null: all are kept")
    select: SelectDetails | None = Field(description="what chose the other tokens; null: all are kept")
    map_id: str | None = Field(description="the map whose scores set the budgets")
    map_match: Literal["exact", "revision", "none"] | None = Field(
        description="whether the map is of the served revision, another one, or missing; null for methods without a map"
    )
    policy: str | None = Field(description="the policy that was used; null: none")
    policy_version: int | None = Field(description="the version of the policy")
    kept_tokens: int = Field(
        description="kept tokens after prefill, over all layers and KV heads; a sliding layer keeps its window"
    )
    full_tokens: int = Field(description="tokens that the full cache would hold, over all layers and KV heads")
    bytes: int
    full_bytes: int


class KeptInPicture(BaseModel):
    """The tokens of one picture that a KV head keeps, as a grid to draw over it. A token without one place, such as a
    row's end or a thumbnail, is in no cell."""

    start: int = Field(description="index in the prompt of the picture's first token")
    tokens: int = Field(description="tokens from the picture's first to its last")
    kept_tokens: int = Field(description="picture's tokens that the KV head keeps")
    x: list[float] = Field(
        description="borders of the columns, in the picture's pixels; one more than there are columns"
    )
    y: list[float] = Field(
        description="borders of the rows, in the picture's pixels; beyond its edge for models that pad"
    )
    cells: list[list[bool]] = Field(description="whether the KV head keeps the token that shows each cell, row by row")


class KeptTokensBody(BaseModel):
    """The tokens of the prompt that one KV head keeps."""

    layer: int
    kv_head: int
    positions: list[int] = Field(description="indices of the kept tokens in the prompt, ascending")
    pictures: list[KeptInPicture] = Field(description="pictures in the order of the prompt")


class SessionDetails(BaseModel):
    """hit: whether the prompt continued the kept cache. kept: whether this turn is kept for the next."""

    hit: bool
    reused_tokens: int = Field(description="prompt tokens that the session saved from prefill")
    kept: bool
