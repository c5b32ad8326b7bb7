"""Settings of the inference service."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from headmap.settings_groups.setting import setting


class Requests(BaseModel):
    """Inference: requests"""

    no_map_policy: Literal["uniform", "error"] = setting(
        "uniform",
        "answer to a `sparsemm` request when the model has no map: uniform budgets, or an error (409)",
        change="an answer without a map would mislead (`error`)",
    )
    map_alias: str = setting(
        "default",
        "alias of the map that serves requests that name none",
        change="this replica follows `stable` or `canary`",
        min_length=1,
        max_length=64,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
    )
    map_refresh_seconds: float = setting(
        2.0,
        "time between two looks at where an alias points",
        unit="seconds",
        change="many replicas read the registry too often",
        gt=0,
    )
    default_kv_ratio: float | None = setting(
        None,
        "share of the prompt that `sparsemm` keeps for requests without `kv`; the full cache if unset",
        unit="share",
        change="clients cannot send `kv`",
        gt=0,
        le=1,
    )
    default_policy: str | None = setting(
        None,
        "name of the policy that serves requests without `kv`, instead of `HEADMAP_DEFAULT_KV_RATIO`",
        change="requests should be served with what an evaluation showed to hold",
        min_length=1,
        max_length=64,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
    )
    default_max_new_tokens: int | None = setting(
        None,
        "longest answer when the request names no limit; all that the context has room for if unset",
        unit="tokens",
        change="clients forget the limit and answers run on",
        ge=1,
    )
    grammar_seconds: float = setting(
        5.0,
        "longest time to compile the form of an answer (a schema, an expression, a grammar); longer ones get 422",
        unit="seconds",
        change="large schemas time out on a slow machine",
        gt=0,
    )
    max_prompt_tokens: int = setting(
        131_072,
        "longest prompt; the model's own context may be shorter",
        unit="tokens",
        change="one prompt's prefill takes too much memory or time",
        ge=1,
    )
    unknown_fields: Literal["ignore", "refuse"] = setting(
        "ignore",
        "what happens to unknown fields in messages and their parts; unknown fields at the top are always refused",
        change="you want to find misspelt fields (`refuse`)",
    )
    metrics_aliases: tuple[Literal["vllm"], ...] = setting(
        (),
        "`vllm` makes /metrics repeat what vLLM also measures, under vLLM's names",
        change="dashboards or autoscalers expect vLLM",
    )


class Engine(BaseModel):
    """Inference: memory and steps"""

    kv_memory_bytes: int | None = setting(
        None,
        "KV cache memory of one process, shared by all its models; taken from free memory if unset",
        unit="bytes",
        change="other programs share the device",
        gt=0,
    )
    session_memory_bytes: int = setting(
        2**30,
        "host memory for the caches of conversations between their turns; 0 keeps none",
        unit="bytes",
        change="later turns are prefilled again though they named a session",
        ge=0,
    )
    response_memory_bytes: int = setting(
        2**28,
        "host memory for stored responses, which `previous_response_id` of /v1/responses continues",
        unit="bytes",
        change="clients lose stored responses too soon",
        ge=0,
    )
    max_running: int = setting(
        32,
        "most sequences that are decoded together",
        unit="sequences",
        change="memory is free and requests wait",
        ge=1,
    )
    max_waiting: int = setting(
        128,
        "most requests that wait for their turn; further ones get 429, and 0 lets none wait",
        unit="requests",
        change="clients should retry elsewhere sooner, or bursts get 429",
        ge=0,
    )
    max_prefill_tokens: int = setting(
        2048,
        "most tokens of waiting prompts that are prefilled together; a longer prompt is prefilled alone",
        unit="tokens",
        change="many short prompts wait on a fast GPU",
        ge=1,
    )
    max_decode_gap_ms: float = setting(
        50.0,
        "time after which a prefill pauses to give running requests a token",
        unit="ms",
        change="streams stutter, or prompts take too long to start",
        ge=0,
    )
    decode_backend: Literal["auto", "torch", "native", "triton"] = setting(
        "auto",
        "attention of a decode step: torch operations, C++ compiled at the start (CPU), or Triton kernels (CUDA); "
        "`auto` takes the fastest that is right on this machine",
        change="`headmap doctor` shows that another backend suits you",
    )
    cuda_graphs: Literal["auto", "on", "off"] = setting(
        "auto",
        "whether decode steps are replayed as CUDA graphs; `auto` does so if it is right and faster",
        change="you look for a fault on a GPU (`off`)",
    )
    compile_layers: Literal["auto", "on", "off"] = setting(
        "auto",
        "whether torch compiles the layers of steps that are CUDA graphs, at the start; `auto` does so if it is right "
        "and faster",
        change="a server has to start half a minute sooner, or you look for a fault on a GPU (`off`)",
    )
    prepare_workers: int = setting(
        2,
        "threads that prepare prompts, and processes that decode pictures for one key or address",
        unit="threads",
        change="processors idle while pictures wait",
        ge=1,
    )


class Pictures(BaseModel):
    """Pictures: inference, and uploads of the scoring API"""

    image_url_hosts: tuple[str, ...] = setting(
        (), "hosts whose image URLs are fetched", change="clients send URLs instead of the pictures themselves"
    )
    image_url_seconds: float = setting(
        10.0, "longest time to fetch all pictures of a request", unit="seconds", change="the image host is slow", gt=0
    )
    image_decode_seconds: float = setting(
        30.0,
        "longest time to decode all pictures of a request, fetched or sent",
        unit="seconds",
        change="large pictures time out on a slow machine",
        gt=0,
    )
    max_image_bytes: int = setting(
        20 * 2**20, "largest file of one picture", unit="bytes", change="scans are larger", ge=1
    )
    max_image_pixels: int = setting(
        40_000_000, "most pixels of one picture, by its header", unit="pixels", change="scans are larger", ge=1
    )
    max_request_pixels: int = setting(
        160_000_000,
        "most pixels of all pictures of one request together",
        unit="pixels",
        change="requests with many large pages are refused",
        ge=1,
    )
    max_images: int = setting(
        16, "most pictures in one request", unit="pictures", change="documents have more pages", ge=1
    )
