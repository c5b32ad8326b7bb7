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
from services.inference.http.schemas.kv import KeptTokensBody, KVBody, KVDetails, KVHeadBody

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
    value: str = Field(min_length=1, description="the answer matches it as a whole")


Grammar = Annotated[
    Annotated[JsonGrammar, Tag("<json>")]
    | Annotated[JsonSchemaGrammar, Tag("<json_schema>")]
    | Annotated[RegexGrammar, Tag("<regex>")],
    kinds("type", "json", "json_schema", "regex"),
]


class Parameters(Body):
    max_new_tokens: int | None = Field(
        None, ge=0, le=MAX_TOKENS, description="100 when left out; 0 only prefills the prompt"
    )
    do_sample: bool | None = Field(
        None, description="greedy when false; when left out, sampled where temperature, top_p or top_k is given"
    )
    temperature: float | None = Field(None, gt=0, le=100)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0, le=MAX_TOKENS)
    min_p: float | None = Field(None, ge=0, le=1, description="share of the likeliest token's probability")
    repetition_penalty: float | None = Field(None, gt=0, le=100)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    seed: int | None = Field(None, ge=-MAX_SEED - 1, le=MAX_SEED)
    stop: Items[Annotated[str, Field(min_length=1, max_length=256)]] | None = Field(None, max_length=MAX_STOPS)
    ignore_eos: bool = Field(False, description="go on past the end of the answer; for load tests")
    details: bool = Field(False, description="tell each token too; the other details are always told")
    top_n_tokens: int | None = Field(
        None, ge=0, le=MAX_TOP, description="tell the likeliest tokens at each place, with details or in a stream"
    )
    decoder_input_details: bool = Field(False, description="tell the prompt's tokens, with details; not in a stream")
    return_full_text: bool = Field(False, description="the generated text begins with `inputs`")
    grammar: Grammar | None = Field(None, description="the form that the answer must have")
    kv: KVBody | None = None
    kept: KVHeadBody | None = Field(None, description="a KV head: the details tell which tokens it keeps")

    best_of: Annotated[Any, Only(1)] = None
    typical_p: Annotated[Any, Only(1)] = None
    watermark: Annotated[Any, Only(False)] = None
    adapter_id: NotServed = None
    truncate: NotServed = None


class GenerateRequest(Body):
    """The shape that text-generation-inference clients send."""

    inputs: str = Field(
        description="the question; pictures may stand in it as ![](http(s) URL or data: URL)",
        examples=["What is the value of KEY?"],
    )
    parameters: Parameters | None = None
    stream: bool = False
    images: Items[str] = Field([], description="http(s) URLs, data: URLs or base64; placed before the text")
    model: str | None = Field(
        None, min_length=1, max_length=512, description="where several are served, or MODEL@METHOD-RATIO"
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
    tokens: list[TokenBody] = Field([], description="with `details`")
    top_tokens: list[list[TokenBody]] | None = None
    kept: KeptTokensBody | None = Field(None, description="where `kept` asks for a head")


class GenerateResponse(BaseModel):
    generated_text: str
    details: Details
    model: str
    revision: str


class StreamEvent(BaseModel):
    """One server-sent event of a stream: a token each, the last with the whole text and the details."""

    index: int
    token: TokenBody
    top_tokens: list[TokenBody] | None = None
    generated_text: str | None = None
    details: Details | None = None
    model: str | None = None
    revision: str | None = None
