"""The settings themselves, in groups by the processes that read them.

Each says what it is, in which unit, and when one would change it. docs/settings.md is made of this file: the first line
of a group's docstring is its title there, and the rest stands below the title.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, SecretStr

from headmap.models import DEMO_MODEL


def setting(default: Any, description: str, *, change: str, unit: str | None = None, **bounds: Any) -> Any:
    """A setting. `description` can be read alone, `change` ends the sentence "Change it when", numbers have a `unit`.

    `bounds` are those of pydantic's `Field`.
    """
    return Field(default, description=description, json_schema_extra={"unit": unit, "change": change}, **bounds)


class EveryProcess(BaseModel):
    """Every process"""

    data_dir: Path = setting(
        Path("headmap-data"),
        "folder for everything that Headmap writes",
        change="the working directory is not where data should be",
    )
    database_url: str | None = setting(
        None,
        "SQLAlchemy URL of the registry; SQLite in the data directory if unset",
        change="several machines share one registry, in PostgreSQL",
    )
    broker_url: str | None = setting(
        None,
        "URL of Celery's broker; folders in the data directory if unset",
        change="workers run on several machines, with Redis",
    )
    log_level: str = setting(
        "INFO", "least severe log level that is written: DEBUG, INFO, WARNING or ERROR", change="you look for a fault"
    )


class HttpServices(BaseModel):
    """The scoring API and inference

    Who may call, and how much a request may send.
    """

    api_keys: tuple[SecretStr, ...] = setting(
        (), "API keys that are valid besides the ones that `headmap keys` makes", change="keys come from a secret store"
    )
    access: Literal["auto", "keys", "open"] = setting(
        "auto",
        "whether calls need a key: always (`keys`), never (`open`), or once a key has been made (`auto`)",
        change="other machines reach the server (`keys`)",
    )
    key_refresh_seconds: float = setting(
        1.0,
        "time until a key that is made or revoked takes effect",
        unit="seconds",
        change="many replicas read the registry too often",
        gt=0,
    )
    key_max_age_seconds: float = setting(
        3600.0,
        "time for which known keys stay valid while the registry cannot be reached",
        unit="seconds",
        change="the registry may be away for longer, or a revoked key must end sooner",
        gt=0,
    )
    key_requests_per_minute: int | None = setting(
        None,
        "requests per minute allowed for each key; unlimited if unset",
        unit="requests",
        change="one caller takes too large a share",
        ge=1,
    )
    key_concurrent_requests: int | None = setting(
        None,
        "requests that each key may have running at a time in each process; unlimited if unset",
        unit="requests",
        change="one caller takes too large a share",
        ge=1,
    )
    rate_limit_url: str | None = setting(
        None,
        "Redis URL where requests per minute are counted for all processes; each process counts alone if unset",
        change="several replicas must share one limit",
    )
    cors_origins: tuple[str, ...] = setting(
        (), "origins whose web pages may call", change="a web page of another origin calls the API"
    )
    max_body_bytes: int = setting(
        64 * 2**20,
        "largest body of one request",
        unit="bytes",
        change="requests with many pictures get 413",
        ge=1,
    )
    max_bodies_bytes: int = setting(
        2**30,
        "largest total of all bodies that a process holds at a time; further requests get 429",
        unit="bytes",
        change="the machine has little memory, or large requests get 429",
        ge=1,
    )
    drain_seconds: float = setting(
        30.0,
        "time for running requests to finish after SIGTERM",
        unit="seconds",
        change="answers take longer, or the host kills sooner",
        ge=0,
    )


class Models(BaseModel):
    """Inference and workers"""

    models: tuple[str, ...] = setting(
        (DEMO_MODEL,), "Hub ids or local folders of the models that inference serves", change="you serve your own model"
    )
    model_dirs: tuple[Path, ...] = setting(
        (), "folders whose subfolders are models, each called by its name", change="models lie in a shared folder"
    )
    trust_remote_code: tuple[str, ...] = setting(
        (), "names of models whose own Python code may run", change="a model needs its own code and you have read it"
    )
    device: str = setting(
        "auto", "device for the model: auto, cpu, cuda or cuda:N", change="the machine has several GPUs"
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = setting(
        "auto",
        "number format of weights and cache; `auto` is bfloat16 on a GPU and float32 on a CPU",
        change="the GPU has no bfloat16, or the CPU has AMX (`bfloat16`)",
    )


class Requests(BaseModel):
    """Inference: requests"""

    no_map_policy: Literal["uniform", "error"] = setting(
        "uniform",
        "answer to a `sparsemm` request when the model has no map: uniform budgets, or an error (409)",
        change="an answer without a map would mislead (`error`)",
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
    default_max_new_tokens: int | None = setting(
        None,
        "longest answer when the request names no limit; all that the context has room for if unset",
        unit="tokens",
        change="clients forget the limit and answers run on",
        ge=1,
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
    prepare_workers: int = setting(
        2,
        "threads that prepare prompts, and as many processes that decode pictures",
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
        10.0, "longest time to fetch one image URL", unit="seconds", change="the image host is slow", gt=0
    )
    image_decode_seconds: float = setting(
        60.0,
        "longest time to decode one picture, fetched or sent",
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


class Scoring(BaseModel):
    """The scoring API and workers"""

    max_dataset_bytes: int = setting(
        2**30,
        "largest uploaded dataset, packed and unpacked",
        unit="bytes",
        change="your pages take more, or the registry's disk is small",
        ge=1,
    )
    synthdog: str = setting(
        "nnethercott/synthdog-en-detection",
        "source of the dataset `synthdog-en`: a Hub id, or a folder of parquet files",
        change="workers have no network",
    )
    shard_pages: int = setting(
        8, "pages in each shard of a scoring job", unit="pages", change="a page takes minutes (fewer)", ge=1
    )
    lease_seconds: float = setting(
        120.0,
        "time until a shard that its worker no longer renews goes to another worker",
        unit="seconds",
        change="workers are often killed, or stall for longer than that",
        gt=0,
    )
    sweep_seconds: float = setting(
        5.0,
        "time between two searches of a worker for lost shards",
        unit="seconds",
        change="many workers read the registry too often",
        gt=0,
    )
    max_attempts: int = setting(
        5, "attempts at a shard before its job fails", unit="attempts", change="hosts fail often", ge=1
    )
    retry_seconds: float = setting(
        2.0,
        "wait before a shard's second attempt, doubled before each further one",
        unit="seconds",
        change="what fails takes longer to recover",
        ge=0,
    )
    shard_time_limit: int = setting(
        3600,
        "time after which the process that scores a shard is killed; its attempt is asked to end at nine tenths of it",
        unit="seconds",
        change="a shard of a large model takes longer",
        ge=2,
    )
    scoring_batch: int = setting(
        4,
        "pages that a worker reads together when the model is large or on a GPU",
        unit="pages",
        change="the worker runs out of memory, or its GPU idles",
        ge=1,
    )


GROUPS: tuple[type[BaseModel], ...] = (EveryProcess, HttpServices, Models, Requests, Engine, Pictures, Scoring)
"""In the order of docs/settings.md."""
