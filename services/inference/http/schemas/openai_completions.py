"""Bodies of POST /v1/completions."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from services.inference.http.schemas.kv import KVDetails
from services.inference.http.schemas.openai import OpenAIRequest, Usage
from services.inference.http.schemas.strict import MAX_TOKENS, MAX_TOP

MAX_PROMPTS = 16
"""The most prompts of one request."""

_One = Annotated[int, Field(ge=1, le=1)]


class CompletionRequest(OpenAIRequest):
    """Text goes on from text, without the chat template: OpenAI's schema, with `kv` as an extra field."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS)] = Field(
        description="text; lists of token ids are not served"
    )
    max_tokens: int | None = Field(None, ge=0, le=MAX_TOKENS, description="16 when left out, as OpenAI has it")
    echo: bool | None = Field(None, description="answers begin with the prompt; not together with logprobs")
    logprobs: int | None = Field(None, ge=0, le=MAX_TOP, description="log probabilities, and so many likeliest ones")

    # Not served: only what means the default
    best_of: _One | None = None
    suffix: None = None

    @property
    def prompts(self) -> list[str]:
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt


class CompletionLogprobs(BaseModel):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class CompletionChoice(BaseModel):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"]
    kv: KVDetails


class Completion(BaseModel):
    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage
    system_fingerprint: str
