"""Bodies of /generate and what other routes share with them. Unknown fields are refused by name, types are strict."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from headmap.budgets import DEFAULT_UNIFORM, Allocation
from headmap.kvcache.methods import METHODS
from headmap.kvcache.plan import KVRequest

MAX_TOKENS = 1_000_000
MAX_SEED = 2**63 - 1
MAX_TOP = 20
MAX_LAYERS = 9_999

Finish = Literal["length", "eos_token", "stop_sequence"]


class Strict(BaseModel):
    """A request body: no unknown fields, no conversions."""

    model_config = ConfigDict(extra="forbid", strict=True)


class KVBody(Strict):
    """What to keep of the prompt's KV cache. Methods other than `full` take exactly one of `budget` and `ratio`.

    A request without `kv` is served with `full`, unless HEADMAP_DEFAULT_KV_RATIO says otherwise.
    """

    method: str = Field(
        "sparsemm", max_length=64, description=", ".join(METHODS), json_schema_extra={"enum": list(METHODS)}
    )
    budget: int | None = Field(
        None, le=MAX_TOKENS, description="tokens per KV head, on average", json_schema_extra={"minimum": 1}
    )
    ratio: float | None = Field(None, gt=0, le=1, description="share of the prompt's tokens")
    allocation: Allocation = Field("exact", description="exact totals, or the paper's formula as it is")
    window: int | None = Field(
        None, ge=0, le=MAX_TOKENS, description="last tokens that are always kept; min(32, budget // 2) when left out"
    )
    uniform: float = Field(DEFAULT_UNIFORM, ge=0, le=1, description="share of the budget that every head gets alike")
    map: str | None = Field(None, min_length=1, max_length=64, description="id or alias of a head map of this model")

    def request(self) -> KVRequest:
        return KVRequest(
            method=self.method,
            budget=self.budget,
            ratio=self.ratio,
            allocation=self.allocation,
            window=self.window,
            uniform=self.uniform,
        )


class KVHeadBody(Strict):
    layer: int = Field(ge=0, le=MAX_LAYERS)
    kv_head: int = Field(ge=0, le=MAX_LAYERS, description="of that layer")


class JsonGrammar(Strict):
    type: Literal["json"]
    value: dict[str, Any] = Field(description="a JSON schema")


class NamedSchema(Strict):
    name: str | None = Field(None, max_length=64)
    value: dict[str, Any] = Field(alias="schema")


class JsonSchemaGrammar(Strict):
    type: Literal["json_schema"]
    value: NamedSchema


class RegexGrammar(Strict):
    type: Literal["regex"]
    value: str = Field(min_length=1, description="the answer matches it as a whole")


# Fields of text-generation-inference that we do not serve, where a value that only means the default is no request.
_Zero = Annotated[float, Field(ge=0, le=0)]
_One = Annotated[int, Field(ge=1, le=1)]


class Parameters(Strict):
    max_new_tokens: int | None = Field(None, ge=0, le=MAX_TOKENS, description="0 only prefills the prompt")
    do_sample: bool | None = Field(
        None, description="greedy when false; when left out, sampled where temperature, top_p or top_k is given"
    )
    temperature: float | None = Field(None, gt=0, le=100)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0, le=MAX_TOKENS)
    repetition_penalty: float | None = Field(None, gt=0, le=100)
    seed: int | None = Field(None, ge=0, le=MAX_SEED)
    stop: list[Annotated[str, Field(min_length=1, max_length=256)]] | None = Field(None, max_length=16)
    ignore_eos: bool = Field(False, description="go on past the end of the answer; for load tests")
    details: bool | None = Field(None, description="tell each token too; the other details are always told")
    top_n_tokens: int | None = Field(
        None, ge=0, le=MAX_TOP, description="tell the likeliest tokens at each place, with details or in a stream"
    )
    grammar: Annotated[JsonGrammar | JsonSchemaGrammar | RegexGrammar, Field(discriminator="type")] | None = Field(
        None, description="the form that the answer must have"
    )
    kv: KVBody | None = None
    kept: KVHeadBody | None = Field(None, description="a KV head: the details tell which tokens it keeps")

    best_of: _One | None = None
    decoder_input_details: Literal[False] | None = None
    frequency_penalty: _Zero | None = None
    return_full_text: Literal[False] | None = None
    typical_p: Annotated[float, Field(ge=1, le=1)] | None = None
    watermark: Literal[False] | None = None
    adapter_id: None = None
    truncate: None = None


class GenerateRequest(Strict):
    """The shape that text-generation-inference clients send."""

    inputs: str = Field(
        description="the question; pictures may stand in it as ![](http(s) URL or data: URL)",
        examples=["What is the value of KEY?"],
    )
    parameters: Parameters | None = None
    stream: bool = False
    images: list[str] = Field([], description="http(s) URLs, data: URLs or base64; placed before the text")
    model: str | None = Field(None, min_length=1, max_length=512, description="where several are served")

    @property
    def settled(self) -> Parameters:
        return self.parameters or Parameters.model_validate({})


class KVDetails(BaseModel):
    """What was really kept. `method` is the one that ran: snapkv where sparsemm was asked and there is no map."""

    method: str
    budget: int = Field(description="tokens per KV head, on average, of the layers that do not slide")
    allocation: Allocation
    map_id: str | None = Field(description="the map whose scores set the budgets")
    map_match: Literal["exact", "revision", "none"] | None = Field(
        description="of the served revision, of another one, or none there; null for methods without a map"
    )
    kept_tokens: int = Field(
        description="after prefill, over all layers and KV heads; a layer with a sliding window holds just that"
    )
    full_tokens: int = Field(description="the same with nothing evicted that a layer can see")
    bytes: int
    full_bytes: int


class Timings(BaseModel):
    queue_ms: float
    prefill_ms: float
    decode_ms_per_token: float


class KeptPicture(BaseModel):
    """What a KV head keeps of one picture, as a grid to draw over it. A token that shows no one place (a row's end, the
    picture as a whole) is in no cell."""

    start: int = Field(description="index in the prompt of the picture's first token")
    tokens: int = Field(description="from the picture's first token to its last")
    kept_tokens: int = Field(description="how many of them it keeps")
    x: list[float] = Field(description="the columns' borders in the picture's pixels, one more than columns")
    y: list[float] = Field(description="the rows' borders; models that pad have some past the picture's edge")
    cells: list[list[bool]] = Field(description="row by row, whether it keeps the token that shows the cell")


class KeptBody(BaseModel):
    """What one KV head keeps of the prompt."""

    layer: int
    kv_head: int
    positions: list[int] = Field(description="indices in the prompt, ascending")
    pictures: list[KeptPicture] = Field(description="in the order of the prompt")


class SessionDetails(BaseModel):
    """hit: whether the prompt went on from what was kept. kept: whether this turn is kept for the next."""

    hit: bool
    reused_tokens: int = Field(description="prompt tokens that needed no prefill")
    kept: bool


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
    prefill: list[TokenBody] = Field([], description="the prompt's tokens are not told")
    tokens: list[TokenBody] = Field([], description="with `details`")
    top_tokens: list[list[TokenBody]] | None = None
    kept: KeptBody | None = Field(None, description="where `kept` asks for a head")


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


class MapBody(BaseModel):
    id: str
    version: int
    match: Literal["exact", "revision"]


class ModelBody(BaseModel):
    """A served model as OpenAI lists it, and beside that its map and what a request without `kv` gets."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "headmap"
    revision: str
    architecture: str
    max_model_len: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    map: MapBody | None
    default_kv: dict[str, Any]


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelBody]


class InfoBody(BaseModel):
    """As text-generation-inference has it; `models` is ours. The first fields are those of the default model."""

    model_id: str
    model_sha: str
    model_dtype: str
    model_device_type: str
    model_pipeline_tag: str = "image-text-to-text"
    max_concurrent_requests: int
    max_best_of: int = 1
    max_stop_sequences: int = 16
    max_input_tokens: int
    max_total_tokens: int
    validation_workers: int
    max_client_batch_size: int = 1
    router: str = "headmap"
    version: str
    sha: str | None = None
    docker_label: str | None = None
    kv_methods: list[str]
    models: list[ModelBody]
