"""Bodies of POST /v1/responses."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Discriminator, Field, Tag

from services.inference.http.schemas.fields import (
    MAX_SEED,
    MAX_TOKENS,
    Body,
    Items,
    LooseBody,
    Nothing,
    NotServed,
    Only,
    kinds,
    text_or_list,
)
from services.inference.http.schemas.kv import KVDetails, RequestKV


class _Part(LooseBody):
    annotations: Nothing = None
    logprobs: Nothing = None


class TextInput(_Part):
    type: Literal["input_text", "output_text", "text"]
    text: str


class RefusalInput(_Part):
    type: Literal["refusal"]
    refusal: str


class ImageInput(_Part):
    type: Literal["input_image"]
    image_url: str = Field(description="http(s) URL or data: URL")
    detail: Literal["auto", "low", "high", "original"] | None = Field(
        None, description="ignored: pictures keep their resolution"
    )
    file_id: NotServed = None


ContentPart = Annotated[
    Annotated[TextInput, Tag("<input_text>")]
    | Annotated[TextInput, Tag("<output_text>")]
    | Annotated[TextInput, Tag("<text>")]
    | Annotated[RefusalInput, Tag("<refusal>")]
    | Annotated[ImageInput, Tag("<input_image>")],
    kinds("type", "input_text", "input_image", "output_text", "refusal", "text"),
]
Content = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[Items[ContentPart], Field(max_length=4096), Tag("<list>")],
    Discriminator(text_or_list),
]


class _Item(LooseBody):
    id: Nothing = None
    status: Nothing = None


class MessageItem(_Item):
    type: Literal["message"] = "message"
    role: Literal["user", "system", "developer", "assistant"]
    content: Content
    phase: Nothing = None


class CallItem(_Item):
    """A call that an earlier answer made."""

    type: Literal["function_call"]
    call_id: str = Field(max_length=512)
    name: str = Field(max_length=512)
    arguments: str


class CallOutputItem(_Item):
    """A tool's answer."""

    type: Literal["function_call_output"]
    call_id: str = Field(max_length=512)
    output: Content


class ReferenceItem(LooseBody):
    """An item of an earlier answer, as long as that answer is kept."""

    type: Literal["item_reference"]
    id: str = Field(max_length=512)


class ReasoningItem(LooseBody):
    """Accepted and left out, because no model here reasons outside its answer."""

    type: Literal["reasoning"]
    id: Nothing = None
    status: Nothing = None
    summary: Nothing = None
    content: Nothing = None
    encrypted_content: Nothing = None


def _kind_of_item(item: dict[str, Any]) -> str | None:
    return "message" if "role" in item else None


Item = Annotated[
    Annotated[MessageItem, Tag("<message>")]
    | Annotated[CallItem, Tag("<function_call>")]
    | Annotated[CallOutputItem, Tag("<function_call_output>")]
    | Annotated[ReferenceItem, Tag("<item_reference>")]
    | Annotated[ReasoningItem, Tag("<reasoning>")],
    kinds(
        "type",
        "message",
        "function_call",
        "function_call_output",
        "item_reference",
        "reasoning",
        default=_kind_of_item,
    ),
]


class TextFormat(Body):
    type: Literal["text"]


class JsonObjectFormat(Body):
    type: Literal["json_object"]


class JsonSchemaTextFormat(Body):
    type: Literal["json_schema"]
    name: str = Field(min_length=1, max_length=64)
    value: dict[str, Any] = Field(alias="schema")
    description: Nothing = None
    strict: Nothing = Field(None, description="ignored: answers always follow the schema")


Format = Annotated[
    Annotated[TextFormat, Tag("<text>")]
    | Annotated[JsonObjectFormat, Tag("<json_object>")]
    | Annotated[JsonSchemaTextFormat, Tag("<json_schema>")],
    kinds("type", "text", "json_object", "json_schema"),
]


class TextOptions(Body):
    format: Format | None = None
    verbosity: Annotated[Any, Only("medium")] = None


class ResponsesRequest(Body):
    """OpenAI's schema, with `kv` as an extra field. Greedy unless temperature or top_p is given."""

    model: str | None = Field(
        None, min_length=1, max_length=512, description="name from /v1/models, MODEL@METHOD-RATIO or MODEL@POLICY"
    )
    input: Annotated[
        Annotated[str, Tag("<text>")] | Annotated[Items[Item], Field(max_length=4096), Tag("<list>")],
        Discriminator(text_or_list),
    ]
    instructions: str | None = Field(None, description="a system turn in front, for this response only")
    previous_response_id: str | None = Field(None, max_length=512, description="id of a stored response to continue")
    store: bool = Field(True, description="keep the conversation in memory for a while, for previous_response_id")
    max_output_tokens: int | None = Field(
        None, ge=1, le=MAX_TOKENS, description="longest answer; all that fits by default"
    )
    temperature: float | None = Field(None, ge=0, le=2, description="0 is greedy")
    top_p: float | None = Field(None, ge=0, le=1, description="0 is greedy")
    seed: int | None = Field(None, ge=-MAX_SEED - 1, le=MAX_SEED)
    text: TextOptions | None = Field(None, description="`format` sets the form of the answer")
    tools: Items[dict[str, Any]] | None = Field(None, max_length=128, description="functions that the answer may call")
    tool_choice: str | dict[str, Any] | None = Field(
        None, description="none, auto, required, or {type: function, name}"
    )
    parallel_tool_calls: bool | None = Field(None, description="whether a forced answer may hold several calls")
    stream: bool = False
    kv: RequestKV | None = None

    metadata: Nothing = None
    user: Nothing = None
    safety_identifier: Nothing = None
    prompt_cache_key: Nothing = None
    prompt_cache_retention: Nothing = None
    service_tier: Nothing = None
    stream_options: Nothing = None
    include: Nothing = Field(None, description="ignored: there is nothing that it could add")
    reasoning: Nothing = Field(None, description="ignored: no model here reasons outside its answer")
    truncation: Annotated[Any, Only("disabled")] = None
    background: Annotated[Any, Only(False)] = None
    top_logprobs: Annotated[Any, Only(0)] = None
    max_tool_calls: NotServed = None
    conversation: NotServed = None
    context_management: NotServed = None
    prompt: NotServed = None


class InputTokensDetails(BaseModel):
    cached_tokens: int


class OutputTokensDetails(BaseModel):
    reasoning_tokens: int = 0


class ResponseUsage(BaseModel):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails = OutputTokensDetails()
    total_tokens: int


class IncompleteDetails(BaseModel):
    reason: Literal["max_output_tokens"] = "max_output_tokens"


class ResponseBody(BaseModel):
    """`output`: message and function_call items."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    error: dict[str, Any] | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, Any]
    model: str
    output: list[dict[str, Any]]
    parallel_tool_calls: bool
    previous_response_id: str | None
    reasoning: dict[str, Any] = {"effort": None, "summary": None}
    store: bool
    temperature: float
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_p: float
    truncation: Literal["disabled"] = "disabled"
    usage: ResponseUsage | None = None
    user: str | None = None
    kv: KVDetails | None = None
