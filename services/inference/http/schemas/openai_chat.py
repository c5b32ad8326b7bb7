"""Bodies of POST /v1/chat/completions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from services.inference.http.schemas.kv import KVDetails, SessionDetails
from services.inference.http.schemas.openai import OpenAIRequest, TokenLogprob, Usage
from services.inference.http.schemas.strict import MAX_TOKENS, MAX_TOP, Strict

_Empty = Annotated[list[Any], Field(max_length=0)]


class ImageURL(Strict):
    url: str = Field(description="http(s) URL or data: URL")
    detail: Literal["auto", "low", "high"] | None = Field(None, description="accepted; pictures keep their resolution")


class ImagePart(Strict):
    type: Literal["image_url"]
    image_url: ImageURL


class TextPart(Strict):
    type: Literal["text"]
    text: str


class SystemMessage(Strict):
    role: Literal["system", "developer"]
    content: str | list[TextPart]


class UserMessage(Strict):
    role: Literal["user"]
    content: str | list[Annotated[TextPart | ImagePart, Field(discriminator="type")]]


class AssistantMessage(Strict):
    role: Literal["assistant"]
    content: str | list[TextPart]
    # What our own answers carry beside the content; a client sends them back as they came.
    refusal: None = None
    annotations: _Empty | None = None
    audio: None = None
    function_call: None = None
    tool_calls: _Empty | None = None


ChatMessage = Annotated[SystemMessage | UserMessage | AssistantMessage, Field(discriminator="role")]


class ChatRequest(OpenAIRequest):
    """OpenAI's schema, with `kv` and `session` as extra fields. Greedy unless temperature or top_p is given."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=4096)
    max_completion_tokens: int | None = Field(None, ge=0, le=MAX_TOKENS, description="0 only prefills the prompt")
    max_tokens: int | None = Field(None, ge=0, le=MAX_TOKENS, description="the older name of max_completion_tokens")
    logprobs: bool | None = Field(None, description="tell the log probability of each token")
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP, description="and of so many likeliest ones; with logprobs")
    session: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9._:-]{1,64}$",
        description="keep this conversation's cache for its next turn, which names it and brings all messages again",
    )

    # No effect on the answer
    parallel_tool_calls: bool | None = None

    # Not served: only what means the default
    modalities: Annotated[list[Literal["text"]], Field(max_length=1)] | None = None
    tools: _Empty | None = None
    tool_choice: Literal["none", "auto"] | None = None
    functions: _Empty | None = None
    function_call: Literal["none", "auto"] | None = None
    audio: None = None
    prediction: None = None
    reasoning_effort: None = None
    verbosity: None = None
    web_search_options: None = None

    @property
    def new_tokens(self) -> int | None:
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens


class ChatLogprobs(BaseModel):
    content: list[TokenLogprob]
    refusal: None = None


class AnswerMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Choice(BaseModel):
    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    kv: KVDetails
    session: SessionDetails | None = Field(description="null where the request named none")
    system_fingerprint: str
