"""The fields that OpenAI's routes share, with vLLM's additions, and the shared parts of their answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from headmap.json_numbers import Integer
from services.inference.http.schemas.fields import (
    MAX_SEED,
    MAX_STOPS,
    MAX_TOKENS,
    Body,
    Items,
    Nothing,
    NotServed,
    Only,
    kinds,
    text_or_list,
)
from services.inference.http.schemas.kv import RequestKV

MAX_BIASES = 1024

MAX_CHOICES = 8
"""The most answers to one prompt."""

_Stop = Annotated[str, Field(min_length=1, max_length=256)]
Stops = Annotated[
    Annotated[Annotated[str, Field(max_length=256)], Tag("<text>")]
    | Annotated[Items[_Stop], Field(max_length=MAX_STOPS), Tag("<list>")],
    Discriminator(text_or_list),
]


def _few_biases(value: Any) -> Any:
    """Before each is looked at: pydantic counts a dictionary's items once it has an error for each."""
    if isinstance(value, dict) and len(value) > MAX_BIASES:
        raise PydanticCustomError(
            "too_long", "must have at most {most} items, not {count}", {"most": MAX_BIASES, "count": len(value)}
        )
    return value


class StreamOptions(Body):
    include_usage: bool = False
    continuous_usage_stats: bool = Field(
        False, description="send the usage so far with every chunk, if include_usage is set"
    )
    include_obfuscation: Nothing = None


class PlainText(Body):
    type: Literal["text"]


class JsonObject(Body):
    type: Literal["json_object"]
    value: dict[str, Any] | None = Field(None, description="a JSON schema; any JSON object by default")
    json_schema: dict[str, Any] | None = Field(None, alias="schema", description="another name of `value`")


class JsonSchema(Body):
    name: str = Field(min_length=1, max_length=64)
    description: Nothing = None
    value: dict[str, Any] | None = Field(None, alias="schema", description="a JSON schema; any JSON object by default")
    strict: Nothing = Field(None, description="ignored: answers always follow the schema")


class JsonSchemaFormat(Body):
    type: Literal["json_schema"]
    json_schema: JsonSchema


class JsonValue(Body):
    """The form that text-generation-inference's clients use."""

    type: Literal["json"]
    value: dict[str, Any]


ResponseFormat = Annotated[
    Annotated[PlainText, Tag("<text>")]
    | Annotated[JsonObject, Tag("<json_object>")]
    | Annotated[JsonSchemaFormat, Tag("<json_schema>")]
    | Annotated[JsonValue, Tag("<json>")],
    kinds("type", "text", "json_object", "json_schema", "json"),
]


class StructuredOutputs(Body):
    """The form of the answer, in vLLM's fields; exactly one is given."""

    json_schema: dict[str, Any] | str | None = Field(None, alias="json", description="a JSON schema")
    regex: str | None = Field(None, min_length=1)
    choice: Items[str] | None = Field(None, min_length=1, max_length=1024)
    grammar: str | None = Field(None, min_length=1, description="Lark, or GBNF with a root rule")
    json_object: bool | None = None
    disable_any_whitespace: Nothing = Field(None, description="ignored: JSON is always compact")
    disable_fallback: Nothing = None
    disable_additional_properties: Annotated[Any, Only(False)] = None
    whitespace_pattern: NotServed = None
    structural_tag: NotServed = None


class OpenAIRequest(Body):
    """Greedy unless temperature, top_p, top_k or min_p is given."""

    model: str | None = Field(
        None, min_length=1, max_length=512, description="name from /v1/models, MODEL@METHOD-RATIO or MODEL@POLICY"
    )
    temperature: float | None = Field(None, ge=0, le=2, description="0 is greedy")
    top_p: float | None = Field(None, ge=0, le=1, description="0 is greedy")
    top_k: int | None = Field(None, ge=-1, le=MAX_TOKENS, description="0 and -1 mean no cut")
    min_p: float | None = Field(
        None, ge=0, le=1, description="least probability of a token, as a share of the likeliest token's"
    )
    repetition_penalty: float | None = Field(None, gt=0, le=100)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: Annotated[
        Annotated[dict[str, float], Field(max_length=MAX_BIASES), BeforeValidator(_few_biases)] | None,
        Field(description="bias for each token id, from -100 to 100"),
    ] = None
    do_sample: bool | None = Field(None, description="false is greedy")
    seed: int | None = Field(None, ge=-MAX_SEED - 1, le=MAX_SEED, description="choice i is sampled with seed + i")
    stop: Stops | None = None
    stop_token_ids: Items[Integer] | None = Field(None, max_length=64)
    min_tokens: int | None = Field(None, ge=0, le=MAX_TOKENS, description="fewest tokens before the answer may end")
    ignore_eos: bool = False
    n: int | None = Field(None, ge=1, le=MAX_CHOICES, description="number of answers to each prompt")
    stream: bool = False
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = Field(None, description="form of the answer")
    structured_outputs: StructuredOutputs | None = Field(None, description="form of the answer, in vLLM's fields")
    guided_json: dict[str, Any] | str | None = Field(None, description="a JSON schema")
    guided_regex: str | None = Field(None, min_length=1)
    guided_choice: Items[str] | None = Field(None, min_length=1, max_length=1024)
    guided_grammar: str | None = Field(None, min_length=1, description="Lark, or GBNF with a root rule")
    kv: RequestKV | None = None

    user: Nothing = None
    safety_identifier: Nothing = None
    prompt_cache_key: Nothing = None
    prompt_cache_retention: Nothing = None
    metadata: Nothing = None
    service_tier: Nothing = None
    store: Nothing = None
    cache_salt: Nothing = None
    request_id: Nothing = None
    prediction: Nothing = None
    guided_decoding_backend: Nothing = None
    guided_whitespace_pattern: Nothing = None
    return_token_ids: Annotated[Any, Only(False)] = None
    return_tokens_as_token_ids: Annotated[Any, Only(False)] = None
    priority: Annotated[Any, Only(0)] = None
    best_of: Annotated[Any, Only(1)] = None
    use_beam_search: Annotated[Any, Only(False)] = None
    num_beams: Annotated[Any, Only(1)] = None
    length_penalty: Annotated[Any, Only(1)] = None
    early_stopping: Annotated[Any, Only(False)] = None
    typical_p: Annotated[Any, Only(1)] = None
    watermark: Annotated[Any, Only(False)] = None
    skip_special_tokens: Annotated[Any, Only(True)] = None
    spaces_between_special_tokens: Annotated[Any, Only(True)] = None
    include_stop_str_in_output: Annotated[Any, Only(False)] = None
    bad_words: Annotated[Any, Only([])] = None
    logits_processors: Annotated[Any, Only([])] = None
    mm_processor_kwargs: Annotated[Any, Only({})] = None
    kv_transfer_params: Annotated[Any, Only({})] = None
    vllm_xargs: Annotated[Any, Only({})] = None
    allowed_token_ids: NotServed = None
    truncate_prompt_tokens: NotServed = None
    prompt_logprobs: NotServed = None

    @property
    def stops(self) -> list[str]:
        if isinstance(self.stop, str):
            return [self.stop] if self.stop else []
        return self.stop or []

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def usage_on_every_chunk(self) -> bool:
        options = self.stream_options
        return options is not None and options.include_usage and options.continuous_usage_stats


class CachedTokens(BaseModel):
    cached_tokens: int = Field(description="prompt tokens that a session saved from prefill")


class Usage(BaseModel):
    """`prompt_tokens` includes visual tokens, and counts each prompt once."""

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
