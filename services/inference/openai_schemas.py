"""Bodies of OpenAI's routes. What we cannot serve is refused by name; what means the default is accepted."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from services.inference.schemas import MAX_SEED, MAX_TOKENS, MAX_TOP, KVBody, KVDetails, SessionDetails, Strict

MAX_CHOICES = 8
"""The most answers to one prompt."""
MAX_PROMPTS = 16
"""The most prompts of one request to /v1/completions."""

_Zero = Annotated[float, Field(ge=0, le=0)]
_One = Annotated[int, Field(ge=1, le=1)]
_Empty = Annotated[list[Any], Field(max_length=0)]
_Stop = Annotated[str, Field(min_length=1, max_length=256)]
_Tag = Annotated[str, Field(max_length=512)]


# ---- what both routes take


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


# ---- /v1/chat/completions


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


# ---- /v1/completions


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
