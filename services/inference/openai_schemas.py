"""Bodies of /v1/chat/completions. What we cannot serve is refused by name; what means the default is accepted."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from services.inference.schemas import MAX_SEED, MAX_TOKENS, KVBody, KVDetails, Strict

_Zero = Annotated[float, Field(ge=0, le=0)]
_One = Annotated[int, Field(ge=1, le=1)]
_Empty = Annotated[list[Any], Field(max_length=0)]
_Stop = Annotated[str, Field(min_length=1, max_length=256)]
_Tag = Annotated[str, Field(max_length=512)]


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


class StreamOptions(Strict):
    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class PlainText(Strict):
    type: Literal["text"]


class ChatRequest(Strict):
    """OpenAI's schema, with `kv` as an extra field. Greedy unless temperature or top_p is given."""

    model: str | None = Field(None, min_length=1, max_length=512)
    messages: list[ChatMessage] = Field(min_length=1, max_length=4096)
    max_completion_tokens: int | None = Field(None, ge=1, le=MAX_TOKENS)
    max_tokens: int | None = Field(None, ge=1, le=MAX_TOKENS, description="the older name of max_completion_tokens")
    temperature: float | None = Field(None, ge=0, le=2, description="0 is greedy")
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, le=MAX_TOKENS, description="0 and -1 mean no cut")
    repetition_penalty: float | None = Field(None, gt=0, le=100)
    seed: int | None = Field(None, ge=0, le=MAX_SEED)
    stop: _Stop | Annotated[list[_Stop], Field(max_length=4)] | None = None
    ignore_eos: bool = False
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    kv: KVBody | None = None

    # No effect on the answer
    user: _Tag | None = None
    safety_identifier: _Tag | None = None
    prompt_cache_key: _Tag | None = None
    metadata: dict[str, str] | None = None
    parallel_tool_calls: bool | None = None

    # Not served: only what means the default
    n: _One | None = None
    frequency_penalty: _Zero | None = None
    presence_penalty: _Zero | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None
    logprobs: Literal[False] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=0)] | None = None
    response_format: PlainText | None = None
    modalities: Annotated[list[Literal["text"]], Field(max_length=1)] | None = None
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None
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

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


class Usage(BaseModel):
    """`prompt_tokens` counts those of pictures too."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class AnswerMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Choice(BaseModel):
    index: int = 0
    message: AnswerMessage
    logprobs: None = None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    kv: KVDetails
    system_fingerprint: str
