"""Bodies of /info and /v1/models: the served models."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class MapBody(BaseModel):
    id: str
    version: int
    match: Literal["exact", "revision"]


class TriedBody(BaseModel):
    """A candidate: its error beside float64 (or beside steps without graphs), its time, and why it was left out."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    right: bool
    error: float | None
    milliseconds: float | None
    reason: str | None


class ChoiceBody(BaseModel):
    """The candidates tried when the model was loaded. `gain`: how many times as fast as the next correct one."""

    model_config = ConfigDict(from_attributes=True)

    chosen: str
    gain: float | None
    tried: list[TriedBody]


class DecodeBody(BaseModel):
    """How decode steps run: the backend of attention, whether CUDA graphs replay them, whether layers are compiled."""

    model_config = ConfigDict(from_attributes=True)

    attention: ChoiceBody
    graphs: ChoiceBody
    compiled: ChoiceBody


class CacheBody(BaseModel):
    """The model's KV memory, and how many requests its engine runs at a time."""

    memory_bytes: int
    token_bytes: int = Field(description="bytes of one token in all KV heads of layers that see the whole prompt")
    page_tokens: int = Field(description="tokens of a page; each KV head holds whole pages")
    max_running: int


class ModelBody(BaseModel):
    """A served model as OpenAI lists it, and beside that its map and what a request without `kv` gets.

    A policy is listed as a model of its own, MODEL@POLICY.
    """

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "headmap"
    root: str = Field(description="model whose weights answer")
    parent: str | None = Field(None, description="model that this is a policy of; null for a model itself")
    revision: str
    architecture: str
    max_model_len: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    map: MapBody | None
    default_kv: dict[str, Any]
    cache: CacheBody
    decode: DecodeBody | None


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelBody]


class InfoBody(BaseModel):
    """The body of text-generation-inference; `models` is ours. The first fields describe the default model."""

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
    kv_selectors: list[str]
    kv_default_selector: str = Field(description="the selector of requests that name none")
    models: list[ModelBody]
