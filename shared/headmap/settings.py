"""Settings of every process: read once from HEADMAP_* variables, then frozen."""

from __future__ import annotations

import os
import re
import sys
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_origin

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from headmap.environment import PREFIX, Environment, check_url, faults, is_blank, items_of, unknown_variables
from headmap.models import DEMO_MODEL as DEMO_MODEL

if TYPE_CHECKING:
    from sqlalchemy import URL

SECRET = frozenset({"api_keys", "database_url", "broker_url", "rate_limit_url"})
"""Settings whose values may hold a key or a password."""


class Settings(BaseSettings):
    """What a deployment can choose. A list is given as `a,b` or as JSON; a variable that is blank counts as unset."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="ignore", enable_decoding=False, hide_input_in_errors=True
    )

    data_dir: Path = Field(Path("headmap-data"), description="where everything is written")
    database_url: str | None = Field(None, description="SQLAlchemy URL; SQLite under data_dir when unset")
    broker_url: str | None = Field(None, description="Celery broker; folders under data_dir when unset")

    models: tuple[str, ...] = Field((DEMO_MODEL,), description="Hub ids or local folders that inference serves")
    model_dirs: tuple[Path, ...] = Field((), description="folders whose subfolders are models by name")
    trust_remote_code: tuple[str, ...] = Field(
        (), description="models, by name, whose own Python code may run in our processes; none by default"
    )
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="of the weights and the cache; bfloat16 on a GPU and float32 elsewhere when auto"
    )

    api_keys: tuple[SecretStr, ...] = Field((), description="let in beside those of `headmap keys`")
    access: Literal["auto", "keys", "open"] = Field(
        "auto", description="ask for a key always, never, or (auto) once there has ever been one"
    )
    key_refresh_seconds: float = Field(1.0, gt=0, description="a key that is made or revoked counts after this long")
    key_max_age_seconds: float = Field(
        3600.0, gt=0, description="with the registry away, keys let in this long after they were last read"
    )
    key_requests_per_minute: int | None = Field(None, ge=1, description="of each key; unlimited when unset")
    key_concurrent_requests: int | None = Field(
        None, ge=1, description="of each key in each process; unlimited when unset"
    )
    rate_limit_url: str | None = Field(
        None, description="redis://... counts a key's requests over all processes; each counts its own when unset"
    )
    cors_origins: tuple[str, ...] = Field((), description="web pages of these origins may call; none by default")

    no_map_policy: Literal["uniform", "error"] = Field(
        "uniform", description="sparsemm without a map: uniform budgets, or an error (409)"
    )
    map_refresh_seconds: float = Field(2.0, gt=0, description="how often inference looks whether an alias has moved")

    kv_memory_bytes: int | None = Field(
        None, gt=0, description="for the KV of all models' sequences; from free memory when unset"
    )
    session_memory_bytes: int = Field(
        2**30, ge=0, description="of the machine's memory, for conversations between their turns; 0 keeps none"
    )
    response_memory_bytes: int = Field(
        2**28, ge=0, description="of the machine's memory, for what previous_response_id of /v1/responses goes on from"
    )
    max_running: int = Field(32, ge=1, description="sequences decoded together")
    max_waiting: int = Field(128, ge=0, description="requests beyond those that can run, before 429; 0 queues none")
    max_prefill_tokens: int = Field(
        2048, ge=1, description="prompts that wait are prefilled together up to so many tokens; a longer one by itself"
    )
    max_decode_gap_ms: float = Field(
        50.0, ge=0, description="a prompt's prefill lets running requests have a token when the last is this long ago"
    )
    decode_backend: Literal["auto", "torch", "native", "triton"] = Field(
        "auto",
        description="attention of a decode step: torch operations, C++ compiled at the start (CPU), or Triton kernels "
        "(CUDA); auto: the fastest of those that are right on this machine. `headmap doctor` tells",
    )
    cuda_graphs: Literal["auto", "on", "off"] = Field(
        "auto", description="decode steps are replayed as CUDA graphs; auto: where that is right and faster"
    )
    default_max_new_tokens: int | None = Field(
        None, ge=1, description="at most, for requests that do not say; all that the context has room for when unset"
    )
    max_prompt_tokens: int = Field(131_072, ge=1, description="at most; the model's context may be less")
    default_kv_ratio: float | None = Field(
        None, gt=0, le=1, description="requests that bring no kv: sparsemm at this share of the prompt; full when unset"
    )
    prepare_workers: int = Field(
        2, ge=1, description="threads that make prompts, and processes that decode pictures for one key or address"
    )
    drain_seconds: float = Field(30.0, ge=0, description="SIGTERM lets running requests finish this long")

    image_url_hosts: tuple[str, ...] = Field((), description="hosts whose image URLs are fetched; none by default")
    image_url_seconds: float = Field(10.0, gt=0, description="time to fetch all pictures of one request")
    image_decode_seconds: float = Field(
        30.0, gt=0, description="time to decode all pictures of one request, however they came"
    )
    grammar_seconds: float = Field(
        5.0, gt=0, description="time to compile the grammar of one answer: a schema, an expression; then 422"
    )
    max_image_bytes: int = Field(20 * 2**20, ge=1, description="of one picture's file")
    max_image_pixels: int = Field(40_000_000, ge=1, description="of one picture, told by its header")
    max_request_pixels: int = Field(160_000_000, ge=1, description="of all pictures of one request")
    max_images: int = Field(16, ge=1, description="in one request")
    max_body_bytes: int = Field(64 * 2**20, ge=1, description="of one request")
    max_bodies_bytes: int = Field(
        2**30,
        ge=2,
        description="of all requests at work in a process, with pictures fetched and decoded; then 429. One key (or "
        "address, without keys) holds at most as many bytes as are left for all others",
    )
    max_spool_bytes: int = Field(
        2**32, ge=2, description="of all uploads that a process has on disk, shared out as max_bodies_bytes; then 429"
    )
    body_min_rate: int = Field(
        16_384, ge=1, description="bytes per second at which a body must arrive on average; slower ones get 408"
    )
    body_grace_seconds: float = Field(20.0, gt=0, description="how far a body may fall behind body_min_rate")
    body_seconds: float = Field(3600.0, gt=0, description="a body must have arrived within this time; then 408")
    header_seconds: float = Field(10.0, gt=0, description="a connection that sends no whole request head is closed")
    reader_seconds: float = Field(120.0, gt=0, description="a client that reads nothing of its answer is hung up on")
    max_connections: int = Field(
        4096,
        ge=1,
        description="to one process; fewer where it may open fewer files. Beyond them the one that is idle longest is "
        "closed; where none is idle, 503",
    )
    trusted_proxies: tuple[str, ...] = Field(
        ("127.0.0.1", "::1"), description="addresses and networks whose X-Forwarded-For and -Proto are believed"
    )

    max_dataset_bytes: int = Field(2**30, ge=1, description="of one uploaded dataset, packed or unpacked")
    synthdog: str = Field(
        "nnethercott/synthdog-en-detection", description="dataset synthdog-en: a Hub id, or a folder of parquet files"
    )
    shard_pages: int = Field(8, ge=1, description="pages per shard of a scoring job")
    lease_seconds: float = Field(120.0, gt=0, description="a shard not renewed this long is due again")
    sweep_seconds: float = Field(5.0, gt=0, description="how often workers look for lost shards")
    max_attempts: int = Field(5, ge=1, description="attempts per shard before its job fails")
    retry_seconds: float = Field(2.0, ge=0, description="wait before a shard's second attempt; doubles with each")
    shard_time_limit: int = Field(
        3600,
        ge=2,
        description="seconds after which a shard's process is ended; the shard itself is asked to end before",
    )
    scoring_batch: int = Field(4, ge=1, description="pages that a worker reads together")

    unknown_fields: Literal["ignore", "refuse"] = Field(
        "ignore", description="of chat messages and their parts; at the top of a body they are always refused"
    )
    metrics_aliases: tuple[Literal["vllm"], ...] = Field(
        (), description="`vllm`: /metrics tells under vLLM's names as well what means the same"
    )
    log_level: str = Field("INFO", description="DEBUG, INFO, WARNING or ERROR")

    @field_validator("*", mode="before")
    @classmethod
    def _list(cls, value: object, info: ValidationInfo) -> object:
        name = str(info.field_name)
        if get_origin(cls.model_fields[name].annotation) is not tuple:
            return value
        items = items_of(value) if isinstance(value, str) else value
        if name == "api_keys" or not isinstance(items, list | tuple):
            return items
        return [item for item in items if not is_blank(item)]

    @field_validator("api_keys")
    @classmethod
    def _no_empty_key(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if any(is_blank(key.get_secret_value()) for key in value):
            raise ValueError("one of the keys is empty: it would let in whoever sends none")
        return value

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, value: str | None) -> str | None:
        return None if value is None else check_url(value, r"sqlite|postgres(ql(\+psycopg)?)?")

    @field_validator("broker_url")
    @classmethod
    def _readable_broker(cls, value: str | None) -> str | None:
        if value is not None:
            for one in value.split(";"):  # Celery takes several, to fall back on
                check_url(one, r".+")
        return value

    @field_validator("rate_limit_url")
    @classmethod
    def _known_counter(cls, value: str | None) -> str | None:
        return None if value is None else check_url(value, r"rediss?")

    @field_validator("trusted_proxies")
    @classmethod
    def _known_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for item in value:
            try:
                ip_network(item)
            except ValueError as error:
                raise ValueError(f"{item!r} is no address or network, as 10.0.0.0/8") from error
        return value

    @field_validator("log_level")
    @classmethod
    def _known_level(cls, value: str) -> str:
        if value.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
            raise ValueError("must be DEBUG, INFO, WARNING or ERROR")
        return value.upper()

    @field_validator("cuda_graphs", mode="before")
    @classmethod
    def _true_is_on(cls, value: object) -> object:
        return {"true": "on", "1": "on", "false": "off", "0": "off"}.get(str(value).lower(), value)

    @field_validator("device")
    @classmethod
    def _known_device(cls, value: str) -> str:
        if re.fullmatch(r"auto|cpu|cuda(:\d+)?", value) is None:
            raise ValueError("must be auto, cpu, cuda or cuda:N")
        return value

    @field_validator("data_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        try:
            return value.expanduser().absolute()
        except RuntimeError as error:  # ~nobody
            raise ValueError("names the home of no user") from error

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, Environment(settings_cls)

    @property
    def shard_seconds(self) -> float:
        """The softer limit: past it an attempt has failed, and its work is aborted at the next page."""
        return 0.9 * self.shard_time_limit

    @property
    def sql_url(self) -> URL:
        from sqlalchemy import URL, make_url  # not everything that has settings has a registry

        if self.database_url is not None:
            return make_url(self.database_url)
        return URL.create("sqlite", database=str(self.data_dir / "registry.sqlite3"))  # as text, a `?` would end it

    @property
    def celery_broker_url(self) -> str:
        return self.broker_url or "filesystem://"


def load_settings(**given: Any) -> Settings:
    """The settings of a process that starts, with those `given` before the environment's.

    Ends the process with status 2 where they are wrong. Faults, and variables that set nothing, are told on standard
    error, a line each.
    """
    for line in unknown_variables(os.environ, Settings.model_fields):
        print(f"headmap: {line}", file=sys.stderr)
    try:
        return Settings(**given)
    except ValidationError as error:
        for line in faults(error, SECRET):
            print(f"headmap: {line}", file=sys.stderr)
        raise SystemExit(2) from None
