"""Settings of every process, of the two HTTP services, and of the processes that load models."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, SecretStr

from headmap.models import DEMO_MODEL
from headmap.settings_groups.key import SettingsKey
from headmap.settings_groups.setting import setting


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
    database_seconds: float = setting(
        10.0,
        "longest time that PostgreSQL may take for one statement, migrations apart; then the call gets 503",
        unit="seconds",
        change="the registry is large and its disk slow",
        gt=0,
    )
    broker_url: str | None = setting(
        None,
        "URL of Celery's broker; folders in the data directory if unset",
        change="workers run on several machines, with Redis",
    )
    blob_url: str | None = setting(
        None,
        "where the pages of uploaded datasets lie: `file:///FOLDER` or `s3://BUCKET/PREFIX`; the folder `blobs` of the "
        "data directory if unset. S3 takes its endpoint and credentials from the usual AWS_* variables",
        change="several machines share the registry",
    )
    blob_cache_bytes: int = setting(
        2**30,
        "largest total of a host's copies of blobs from S3, in its data directory; 0 keeps none",
        unit="bytes",
        change="datasets are larger and fetched again and again, or the disk is small",
        ge=0,
    )
    log_level: str = setting(
        "INFO", "least severe log level that is written: DEBUG, INFO, WARNING or ERROR", change="you look for a fault"
    )
    guide_dir: Path | None = setting(
        None,
        "folder with the built site of the documentation, shown at /guide/; not shown if unset",
        change="the dashboard should show these pages",
    )
    dashboard_secret: SecretStr | None = setting(
        None,
        "secret of at least 32 characters that encrypts the dashboard's sessions; each process makes its own if unset",
        change="the dashboard has several replicas, or its sessions should outlast a restart",
    )


class HttpServices(BaseModel):
    """The scoring API and inference

    Who may call, and how much a request may send.
    """

    api_keys: tuple[SettingsKey, ...] = setting(
        (),
        "API keys that are valid besides the ones that `headmap keys` makes. A key may do everything, unless the list "
        'is JSON and the key is an object, as `{"key": "KEY", "scopes": ["infer"]}`',
        change="keys come from a secret store",
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
        "largest total of all bodies that a process holds at a time; further requests get 429. One key (one address, "
        "without keys) holds at most as many bytes as are left for the others",
        unit="bytes",
        change="the machine has little memory, or large requests get 429",
        ge=2,
    )
    max_spool_bytes: int = setting(
        2**32,
        "largest total of uploads that a process has on disk, shared out like max_bodies_bytes; further ones get 429",
        unit="bytes",
        change="the disk of `TMPDIR` is small",
        ge=2,
    )
    body_min_rate: int = setting(
        16_384,
        "slowest average rate at which a body may arrive; slower ones get 408",
        unit="bytes per second",
        change="clients have slow links",
        ge=1,
    )
    body_grace_seconds: float = setting(
        20.0,
        "time that a body may fall behind body_min_rate",
        unit="seconds",
        change="clients pause while they send",
        gt=0,
    )
    body_seconds: float = setting(
        3600.0,
        "longest time for a body to arrive; later ones get 408",
        unit="seconds",
        change="uploads take hours",
        gt=0,
    )
    header_seconds: float = setting(
        10.0,
        "longest time for a request's headers to arrive; then the connection is closed",
        unit="seconds",
        change="clients on slow links lose their connections",
        gt=0,
    )
    reader_seconds: float = setting(
        120.0,
        "longest time that a client may read nothing of its answer; then the connection is closed",
        unit="seconds",
        change="clients pause while they read a stream",
        gt=0,
    )
    max_connections: int = setting(
        4096,
        "most connections of one process, or fewer if it may open fewer files. Beyond them, the connection that is "
        "idle longest is closed; if none is idle, the new one gets 503",
        unit="connections",
        change="clients keep more connections open",
        ge=1,
    )
    trusted_proxies: tuple[str, ...] = setting(
        ("127.0.0.1", "::1"),
        "addresses and networks of proxies whose X-Forwarded-For and X-Forwarded-Proto are believed",
        change="a gateway stands on another machine",
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
