"""Bodies of /generate and /generate_stream, in text-generation-inference's shape."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, Tag

from services.inference.http.schemas.fields import (
    MAX_SEED,
    MAX_STOPS,
    MAX_TOKENS,
    MAX_TOP,
    Body,
    Items,
    NotServed,
    Only,
    kinds,
)
from services.inference.http.schemas.kv import KeptTokensBody, KVDetails, KVHeadBody, RequestKV

Finish = Literal["length", "eos_token", "stop_sequence"]


class JsonGrammar(Body):
    type: Literal["json"]
    value: dict[str, Any] | str = Field(description="a JSON schema")


class NamedSchema(Body):
    name: str | None = Field(None, max_length=64)
    value: dict[str, Any] = Field(alias="schema")


class JsonSchemaGrammar(Body):
    type: Literal["json_schema"]
    value: NamedSchema


class RegexGrammar(Body):
    type: Literal["regex"]
    value: str = Field(min_length=1, description="a regular expression that the whole answer matches")


Grammar = Annotated[
    Annotated[JsonGrammar, Tag("<json>")]
    | Annotated[JsonSchemaGrammar, Tag("<json_schema>")]
    | Annotated[RegexGrammar, Tag("<regex>")],
    kinds("type", "json", "json_schema", "regex"),
]


class Parameters(Body):
    max_new_tokens: int | None = Field(
        None, ge=0, le=MAX_TOKENS, description="longest answer; 100 by default, and 0 only prefills the prompt"
    )
    do_sample: bool | None = Field(
        None, description="whether to sample; by default only if temperature, top_p or top_k is given"
    )
    temperature: float | None = Field(None, gt=0, le=100)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0, le=MAX_TOKENS)
    min_p: float | None = Field(
        None, ge=0, le=1, description="least probability of a token, as a share of the likeliest token's"
    )
    repetition_penalty: float | None = Field(None, gt=0, le=100)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    seed: int | None = Field(None, ge=-MAX_SEED - 1, le=MAX_SEED)
    stop: Items[Annotated[str, Field(min_length=1, max_length=256)]] | None = Field(None, max_length=MAX_STOPS)
    ignore_eos: bool = Field(False, description="go on past the end of the answer; for load tests")
    details: bool = Field(False, description="return each token too; the other details always come")
    top_n_tokens: int | None = Field(
        None,
        ge=0,
        le=MAX_TOP,
        description="number of likeliest tokens to return at each place, with details or in a stream",
    )
    decoder_input_details: bool = Field(
        False, description="return the prompt's tokens with the details; not in a stream"
    )
    return_full_text: bool = Field(False, description="begin the generated text with `inputs`")
    grammar: Grammar | None = Field(None, description="form of the answer")
    kv: RequestKV | None = None
    kept: KVHeadBody | None = Field(None, description="KV head whose kept tokens the details list")

    best_of: Annotated[Any, Only(1)] = None
    typical_p: Annotated[Any, Only(1)] = None
    watermark: Annotated[Any, Only(False)] = None
    adapter_id: NotServed = None
    truncate: NotServed = None


class GenerateRequest(Body):
    """The shape that text-generation-inference clients send."""

    inputs: str = Field(
        description="question; `![](URL)` in it is a picture, with an http(s) or data: URL",
        examples=["What is the value of KEY?"],
    )
    parameters: Parameters | None = None
    stream: bool = False
    images: Items[str] = Field([], description="http(s) URLs, data: URLs or base64; placed before the text")
    model: str | None = Field(
        None,
        min_length=1,
        max_length=512,
        description="name of one of several served models, MODEL@METHOD-RATIO or MODEL@POLICY",
    )

    @property
    def settled(self) -> Parameters:
        return self.parameters or Parameters.model_validate({})


class Timings(BaseModel):
    queue_ms: float
    prefill_ms: float
    decode_ms_per_token: float


class TokenBody(BaseModel):
    id: int
    text: str
    logprob: float | None = None
    special: bool = False


class Details(BaseModel):
    finish_reason: Finish
    generated_tokens: int
    prompt_tokens: int
    image_tokens: int
    seed: int
    kv: KVDetails
    timings: Timings
    prefill: list[TokenBody] = Field([], description="the prompt's tokens, with `decoder_input_details`")
    tokens: list[TokenBody] = Field([], description="generated tokens, with `details`")
    top_tokens: list[list[TokenBody]] | None = None
    kept: KeptTokensBody | None = Field(None, description="kept tokens of the KV head that `kept` asks for")


class GenerateResponse(BaseModel):
    generated_text: str
    details: Details
    model: str
    revision: str


class StreamEvent(BaseModel):
    """One server-sent event of a stream: one token. The last event has the whole text and the details."""

    index: int
    token: TokenBody
    top_tokens: list[TokenBody] | None = None
    generated_text: str | None = None
    details: Details | None = None
    model: str | None = None
    revision: str | None = None
