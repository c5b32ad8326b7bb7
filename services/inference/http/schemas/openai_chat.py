"""Bodies of POST /v1/chat/completions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Discriminator, Field, Tag

from services.inference.http.schemas.fields import (
    MAX_TOKENS,
    MAX_TOP,
    Items,
    LooseBody,
    Nothing,
    NotServed,
    Only,
    kinds,
    text_or_list,
)
from services.inference.http.schemas.kv import KVDetails, SessionDetails
from services.inference.http.schemas.openai import OpenAIRequest, TokenLogprob, Usage

Session = Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]{1,64}$")]


class _Part(LooseBody):
    id: Nothing = None
    uuid: Nothing = None
    name: Nothing = None
    metadata: Nothing = None
    cache_control: Nothing = None
    annotations: Nothing = None
    logprobs: Nothing = None


class ImageURL(LooseBody):
    url: str = Field(description="http(s) URL or data: URL")
    detail: Literal["auto", "low", "high", "original"] | None = Field(
        None, description="ignored: pictures keep their resolution"
    )
    uuid: Nothing = None


class ImagePart(_Part):
    type: Literal["image_url"] = "image_url"
    image_url: Annotated[
        Annotated[str, Tag("<text>")] | Annotated[ImageURL, Tag("<object>")],
        Discriminator(lambda value: "<text>" if isinstance(value, str) else "<object>"),
    ]
    detail: Nothing = None

    @property
    def source(self) -> tuple[str, str]:
        """The picture's URL, and the field that holds it."""
        if isinstance(self.image_url, str):
            return self.image_url, "image_url"
        return self.image_url.url, "image_url.url"


class TextPart(_Part):
    type: Literal["text"] = "text"
    text: str


class RefusalPart(_Part):
    """An assistant's refusal, which is treated as text."""

    type: Literal["refusal"]
    refusal: str


def _kind_of_part(part: dict[str, Any]) -> str | None:
    return next((name for name in ("text", "image_url") if name in part), None)


ContentPart = Annotated[
    Annotated[TextPart, Tag("<text>")]
    | Annotated[ImagePart, Tag("<image_url>")]
    | Annotated[RefusalPart, Tag("<refusal>")],
    kinds("type", "text", "image_url", "refusal", default=_kind_of_part),
]
Content = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[Items[ContentPart], Field(max_length=4096), Tag("<list>")],
    Discriminator(text_or_list),
]


class _Message(LooseBody):
    name: Nothing = None
    id: Nothing = None
    metadata: Nothing = None
    cache_control: Nothing = None


class SystemMessage(_Message):
    role: Literal["system", "developer"]
    content: Content


class UserMessage(_Message):
    role: Literal["user"]
    content: Content


class AssistantMessage(_Message):
    """A turn of the assistant. Further members of an answer are accepted unchanged."""

    role: Literal["assistant"]
    content: Content | None = None
    tool_calls: Items[dict[str, Any]] | None = Field(None, max_length=128, description="calls of earlier turns")
    refusal: Nothing = None
    annotations: Nothing = None
    reasoning: Nothing = None
    reasoning_content: Nothing = None
    reasoning_details: Nothing = None
    audio: Nothing = None
    prefix: Annotated[Any, Only(False)] = None
    function_call: NotServed = None


class ToolMessage(_Message):
    """A tool's answer; `name` reaches the chat template."""

    role: Literal["tool"]
    content: Content | None = None
    tool_call_id: str | None = Field(None, max_length=512)
    name: str | None = Field(None, max_length=512)


ChatMessage = Annotated[
    Annotated[SystemMessage, Tag("<system>")]
    | Annotated[SystemMessage, Tag("<developer>")]
    | Annotated[UserMessage, Tag("<user>")]
    | Annotated[AssistantMessage, Tag("<assistant>")]
    | Annotated[ToolMessage, Tag("<tool>")],
    kinds("role", "system", "developer", "user", "assistant", "tool"),
]
Messages = Annotated[Items[ChatMessage], Field(min_length=1, max_length=4096)]


class ChatRequest(OpenAIRequest):
    """OpenAI's schema, with `kv` and `session` as extra fields. Greedy unless temperature or top_p is given."""

    messages: Messages
    max_completion_tokens: int | None = Field(
        None,
        ge=0,
        le=MAX_TOKENS,
        description="longest answer; 0 only prefills the prompt, and the default is all that fits",
    )
    max_tokens: int | None = Field(None, ge=0, le=MAX_TOKENS, description="older name of max_completion_tokens")
    logprobs: bool = Field(False, description="return the log probability of each token")
    top_logprobs: int | None = Field(
        None, ge=0, le=MAX_TOP, description="number of likeliest tokens to return with logprobs"
    )
    session: Session | None = Field(
        None,
        description="name under which the cache is kept for the next turn, which names it and sends all messages again",
    )
    tools: Items[dict[str, Any]] | None = Field(None, max_length=128, description="functions that the answer may call")
    tool_choice: str | dict[str, Any] | None = Field(
        None, description="none, auto, required, or {type: function, function: {name}}"
    )
    parallel_tool_calls: bool | None = Field(None, description="whether a forced answer may hold several calls")
    chat_template_kwargs: dict[str, Any] | None = Field(
        None, description="variables for the chat template; a variable that it does not read is refused"
    )

    include_reasoning: Nothing = None
    modalities: Annotated[Any, Only(["text"])] = None
    functions: Annotated[Any, Only([])] = None
    function_call: Annotated[Any, Only("none", "auto")] = None
    reasoning_effort: Annotated[Any, Only("none")] = None
    verbosity: Annotated[Any, Only("medium")] = None
    echo: Annotated[Any, Only(False)] = None
    add_generation_prompt: Annotated[Any, Only(True)] = None
    continue_final_message: Annotated[Any, Only(False)] = None
    add_special_tokens: Annotated[Any, Only(False)] = None
    documents: Annotated[Any, Only([])] = None
    media_io_kwargs: Annotated[Any, Only({})] = None
    chat_template: NotServed = None
    audio: NotServed = None
    web_search_options: NotServed = None

    @property
    def new_tokens(self) -> int | None:
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    @property
    def new_tokens_field(self) -> str:
        return "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"


class ChatLogprobs(BaseModel):
    content: list[TokenLogprob]
    refusal: None = None


class FunctionBody(BaseModel):
    name: str
    arguments: str = Field(description="arguments as JSON")


class ToolCallBody(BaseModel):
    id: str
    type: Literal["function"] = "function"
    function: FunctionBody


class AnswerMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str | None = Field(description="text of the answer; null if it holds only calls")
    refusal: None = None
    tool_calls: list[ToolCallBody] | None = None


class Choice(BaseModel):
    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"]


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    kv: KVDetails
    session: SessionDetails | None = Field(description="null if the request names no session")
    system_fingerprint: str
