"""Bodies of POST /v1/completions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Discriminator, Field, Tag

from headmap.json_numbers import Integer
from services.inference.http.schemas.fields import MAX_TOKENS, MAX_TOP, Items, Only
from services.inference.http.schemas.kv import KVDetails
from services.inference.http.schemas.openai import OpenAIRequest, Usage

MAX_PROMPTS = 16
"""The most prompts of one request."""

_Ids = Annotated[Items[Integer], Field(min_length=1, max_length=MAX_TOKENS)]


def _kind_of_prompt(value: Any) -> str:
    first = value[0] if isinstance(value, list) and value else None
    if isinstance(first, list):
        return "<id lists>"
    if isinstance(first, int | float):
        return "<ids>"
    return "<list>" if isinstance(value, list) else "<text>"


class CompletionRequest(OpenAIRequest):
    """Text goes on from text, without the chat template: OpenAI's schema, with `kv` as an extra field."""

    prompt: Annotated[
        Annotated[str, Tag("<text>")]
        | Annotated[Items[str], Field(min_length=1, max_length=MAX_PROMPTS), Tag("<list>")]
        | Annotated[_Ids, Tag("<ids>")]
        | Annotated[Items[_Ids], Field(min_length=1, max_length=MAX_PROMPTS), Tag("<id lists>")],
        Discriminator(_kind_of_prompt),
    ] = Field(description="a text, a list of token ids, or a list of texts or of such lists")
    max_tokens: int | None = Field(
        None,
        ge=0,
        le=MAX_TOKENS,
        description="longest answer; 16 by default, as at OpenAI, and 0 only prefills the prompt",
    )
    echo: bool = Field(False, description="begin answers with the prompt, and its log probabilities if logprobs is set")
    logprobs: int | None = Field(
        None, ge=0, le=MAX_TOP, description="return log probabilities, with this number of likeliest tokens"
    )

    suffix: Annotated[Any, Only("")] = None
    add_special_tokens: Annotated[Any, Only(True)] = None

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """All prompts, in any form."""
        prompt: Any = self.prompt
        return prompt if isinstance(prompt, list) and not isinstance(prompt[0], int) else [prompt]


class CompletionLogprobs(BaseModel):
    """The first token of an echoed prompt has no log probability, and visual tokens have none."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
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
