"""What both OpenAI routes share. What we cannot serve is refused by name; what means the default is accepted."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from services.inference.http.schemas.kv import KVBody
from services.inference.http.schemas.strict import MAX_SEED, MAX_TOKENS, Strict

MAX_CHOICES = 8
"""The most answers to one prompt."""

_Zero = Annotated[float, Field(ge=0, le=0)]
_Stop = Annotated[str, Field(min_length=1, max_length=256)]
_Tag = Annotated[str, Field(max_length=512)]


class StreamOptions(Strict):
    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class PlainText(Strict):
    type: Literal["text"]


class JsonObject(Strict):
    type: Literal["json_object"]


class JsonSchema(Strict):
    name: str = Field(min_length=1, max_length=64)
    description: str | None = Field(None, max_length=MAX_TOKENS)
    value: dict[str, Any] | None = Field(None, alias="schema", description="any JSON object when left out")
    strict: bool | None = Field(None, description="answers always keep to the schema")


class JsonSchemaFormat(Strict):
    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat = Annotated[PlainText | JsonObject | JsonSchemaFormat, Field(discriminator="type")]


class OpenAIRequest(Strict):
    """Greedy unless temperature or top_p is given."""

    model: str | None = Field(None, min_length=1, max_length=512)
    temperature: float | None = Field(None, ge=0, le=2, description="0 is greedy")
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, le=MAX_TOKENS, description="0 and -1 mean no cut")
    repetition_penalty: float | None = Field(None, gt=0, le=100)
    seed: int | None = Field(None, ge=0, le=MAX_SEED, description="choice i is sampled with seed + i")
    stop: _Stop | Annotated[list[_Stop], Field(max_length=4)] | None = None
    ignore_eos: bool = False
    n: int | None = Field(None, ge=1, le=MAX_CHOICES, description="answers to each prompt")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = Field(None, description="the form that the answer must have")
    kv: KVBody | None = None

    # No effect on the answer
    user: _Tag | None = None
    safety_identifier: _Tag | None = None
    prompt_cache_key: _Tag | None = None
    metadata: dict[str, str] | None = None

    # Not served: only what means the default
    frequency_penalty: _Zero | None = None
    presence_penalty: _Zero | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)


class CachedTokens(BaseModel):
    cached_tokens: int = Field(description="prompt tokens that a session held")


class Usage(BaseModel):
    """`prompt_tokens` counts those of pictures too, and those of each prompt once."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens


class TopLogprob(BaseModel):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]
