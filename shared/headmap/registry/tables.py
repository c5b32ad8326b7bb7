"""The registry's tables. Times are UTC. Maps' scores are JSON text, so that every float reads back bit for bit."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from headmap.map_kinds import MapKind


class JobState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


class ShardState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC datetime. SQLite stores no time zone, so writing removes it and reading adds it again."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a registry time needs its zone")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class Job(Base):
    """A request for work on a model. The map that a profile makes refers to the job."""

    __tablename__ = "jobs"
    __table_args__ = (Index(None, "created_at", "id"), Index(None, "state"))

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16), default="profile", server_default="profile")
    """Of `headmap.jobs.kinds`."""
    state: Mapped[str] = mapped_column(String(16))
    active_key: Mapped[str | None] = mapped_column(String(64), unique=True)
    """Hash of the request while it stands for it: empty once failed, cancelled or replaced by a forced one."""

    model: Mapped[str] = mapped_column(String(512))
    revision: Mapped[str] = mapped_column(String(128))
    architecture: Mapped[str] = mapped_column(String(128))
    num_layers: Mapped[int] = mapped_column(Integer)
    num_heads: Mapped[int] = mapped_column(Integer)
    num_kv_heads: Mapped[int] = mapped_column(Integer)

    dataset: Mapped[str] = mapped_column(String(64))
    pages: Mapped[int] = mapped_column(Integer)
    shard_pages: Mapped[int] = mapped_column(Integer)
    """Pages of one shard; the last shard of a round may have fewer."""
    rule: Mapped[str | None] = mapped_column(String(32))
    """How a profile decides which tokens are on the page."""
    map_kind: Mapped[MapKind] = mapped_column(String(16), default="visual", server_default="visual")
    """Of the map that a profile makes, as `Map.kind`; an evaluation makes none."""
    seed: Mapped[int] = mapped_column(BigInteger)
    max_new_tokens: Mapped[int] = mapped_column(Integer)
    min_pages: Mapped[int | None] = mapped_column(Integer)
    max_pages: Mapped[int | None] = mapped_column(Integer)
    stable_overlap: Mapped[float | None] = mapped_column(Double)
    """With these three `pages` grows, round by round; empty where the request said how many."""
    dataset_checksum: Mapped[str | None] = mapped_column(String(64))
    promote: Mapped[str] = mapped_column(String(8), default="auto", server_default="auto")
    """`auto`, `true` or `false`: whether its map takes the alias `default`."""

    request_id: Mapped[str | None] = mapped_column(String(64))
    """Of the HTTP request that made it: workers log with it, so that one id leads from the gateway to a shard."""
    traceparent: Mapped[str | None] = mapped_column(String(64))
    """The span of that request, as W3C Trace Context writes it; empty where it was not traced."""
    key_name: Mapped[str | None] = mapped_column(String(64))
    """Of the API key that made it; empty where none was asked for."""
    pages_done: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    """In shards that are done; those being scored tell how far they are themselves."""
    attempts: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    """The most that any one shard took."""
    device: Mapped[str | None] = mapped_column(String(16))
    """The kind of device of its first lease (cpu, cuda), and so of all: kinds differ in the last bits of a result."""
    handed_back: Mapped[str | None] = mapped_column(Text)
    """Why a host that cannot do it handed a shard back the last time."""
    error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class EndedJobs(Base):
    """How many jobs have ended in a state, also those that were removed since: a count that never falls.

    A state has no row before its first.
    """

    __tablename__ = "ended_jobs"

    state: Mapped[str] = mapped_column(String(16), primary_key=True)
    count: Mapped[int] = mapped_column(BigInteger)


_IS_RUNNING = text("state = 'running'")
_IS_QUEUED = text("state = 'queued'")


FOLD = -1
"""The `number` of a job's fold among its shards, and of the running total of former rounds among their results."""


class Shard(Base):
    """Some consecutive pages of a job, leased by one worker at a time; or, as number FOLD, the fold of their results.

    `attempt` numbers the leases and fences them: writes of an earlier attempt are refused. `failures` counts failed
    attempts; handing a shard back at shutdown is not a failure.
    """

    __tablename__ = "shards"
    __table_args__ = (
        Index(None, "state", "due_at"),
        Index("ix_shards_running", "job_id", sqlite_where=_IS_RUNNING, postgresql_where=_IS_RUNNING),
        Index(
            "ix_shards_queued",
            *("job_id", "enqueued_at", "due_at", "number"),
            sqlite_where=_IS_QUEUED,
            postgresql_where=_IS_QUEUED,
        ),
    )

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    first: Mapped[int] = mapped_column(Integer)
    count: Mapped[int] = mapped_column(Integer)

    state: Mapped[str] = mapped_column(String(16))
    attempt: Mapped[int] = mapped_column(Integer, default=0)
    failures: Mapped[int] = mapped_column(Integer, default=0)
    owner: Mapped[str | None] = mapped_column(String(128))
    lease_until: Mapped[datetime | None] = mapped_column(UtcDateTime)
    due_at: Mapped[datetime] = mapped_column(UtcDateTime)
    enqueued_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    pages_done: Mapped[int] = mapped_column(Integer, default=0)
    error: Mapped[str | None] = mapped_column(Text)


class WorkerModel(Base):
    """A model at a revision that a worker takes shards of, and the kind of its device. Workers renew their rows."""

    __tablename__ = "worker_models"
    __table_args__ = (Index(None, "model", "revision"),)

    worker: Mapped[str] = mapped_column(String(128), primary_key=True)
    model: Mapped[str] = mapped_column(String(512), primary_key=True)
    revision: Mapped[str] = mapped_column(String(128), primary_key=True)
    device: Mapped[str] = mapped_column(String(16))
    seen_at: Mapped[datetime] = mapped_column(UtcDateTime)


class Sweep(Base):
    """When the next sweep is due, in the one row with id 1. Whoever moves the time on does that sweep."""

    __tablename__ = "sweeps"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    next_at: Mapped[datetime] = mapped_column(UtcDateTime)


class StoredResult(Base):
    """What the scoring of a shard gave, in the form of the job's kind; until the fold, or for ever.

    It is apart from the shard, so that the many reads of shards do not meet large values.
    """

    __tablename__ = "shard_results"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    body: Mapped[bytes] = mapped_column(LargeBinary)


class PageLook(Base):
    """Where every head looked on one of a job's first pages (`headmap.looks`)."""

    __tablename__ = "page_looks"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    page: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    about: Mapped[str] = mapped_column(Text)
    picture: Mapped[bytes] = mapped_column(LargeBinary)
    arrays: Mapped[bytes] = mapped_column(LargeBinary)


class Map(Base):
    """An immutable map. `job_id` is unique, so a job makes at most one map."""

    __tablename__ = "maps"
    __table_args__ = (UniqueConstraint("model", "version"), Index(None, "created_at", "id"))

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    model: Mapped[str] = mapped_column(String(512))
    version: Mapped[int] = mapped_column(Integer)
    revision: Mapped[str | None] = mapped_column(String(128))
    architecture: Mapped[str | None] = mapped_column(String(128))
    num_layers: Mapped[int] = mapped_column(Integer)
    num_heads: Mapped[int] = mapped_column(Integer)
    num_kv_heads: Mapped[int] = mapped_column(Integer)

    pages: Mapped[int | None] = mapped_column(Integer)
    hits: Mapped[int | None] = mapped_column(BigInteger)
    tokens_seen: Mapped[int | None] = mapped_column(BigInteger)
    tokens_matched: Mapped[int | None] = mapped_column(BigInteger)
    halves_top5pct_overlap: Mapped[float | None] = mapped_column(Double)
    halves_spearman: Mapped[float | None] = mapped_column(Double)
    rule: Mapped[str | None] = mapped_column(String(32))
    kind: Mapped[MapKind] = mapped_column(String(16), default="visual", server_default="visual")
    """Of `headmap.map_kinds`."""
    dataset: Mapped[str] = mapped_column(String(64))
    seed: Mapped[int | None] = mapped_column(BigInteger)
    max_new_tokens: Mapped[int | None] = mapped_column(Integer)
    dataset_checksum: Mapped[str | None] = mapped_column(String(64))
    origin_map_id: Mapped[str | None] = mapped_column(String(32))
    origin_version: Mapped[int | None] = mapped_column(Integer)
    origin_created_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    origin_repo: Mapped[str | None] = mapped_column(String(256))
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"), unique=True)
    code_version: Mapped[str] = mapped_column(String(64))
    checksum: Mapped[str] = mapped_column(String(64))
    scores: Mapped[str] = mapped_column(Text, deferred=True)
    standard_errors: Mapped[str | None] = mapped_column(Text, deferred=True)
    tags: Mapped[list[str]] = mapped_column(JSON, default=list, server_default="[]")
    notes: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class DeletedMap(Base):
    """The number of a deleted map: no later map of the model gets it."""

    __tablename__ = "deleted_maps"

    model: Mapped[str] = mapped_column(String(512), primary_key=True)
    version: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    map_id: Mapped[str] = mapped_column(String(32))
    deleted_at: Mapped[datetime] = mapped_column(UtcDateTime)


class Alias(Base):
    """A name that points at one of a model's maps. An alias can move; a map cannot change."""

    __tablename__ = "aliases"

    model: Mapped[str] = mapped_column(String(512), primary_key=True)
    alias: Mapped[str] = mapped_column(String(64), primary_key=True)
    map_id: Mapped[str] = mapped_column(ForeignKey("maps.id"), index=True)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)


class AliasMove(Base):
    """The record that an alias was pointed at a map or deleted. It has only the map's id, since it outlives the map."""

    __tablename__ = "alias_moves"
    __table_args__ = (Index(None, "model", "alias", "id"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    model: Mapped[str] = mapped_column(String(512))
    alias: Mapped[str] = mapped_column(String(64))
    map_id: Mapped[str | None] = mapped_column(String(32))
    previous: Mapped[str | None] = mapped_column(String(32))
    moved_by: Mapped[str | None] = mapped_column(String(128))
    moved_at: Mapped[datetime] = mapped_column(UtcDateTime)


class PolicyVersion(Base):
    """A policy's `kv` at one version, or its deletion (`kv` is null). Rows never change, and outlive their map."""

    __tablename__ = "policy_versions"
    __table_args__ = (UniqueConstraint("model", "name", "version"), Index(None, "created_at", "id"))

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    model: Mapped[str] = mapped_column(String(512))
    name: Mapped[str] = mapped_column(String(64))
    version: Mapped[int] = mapped_column(Integer)
    kv: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    evaluation_id: Mapped[str | None] = mapped_column(String(32))
    """The evaluation that showed what it costs in quality."""
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    created_by: Mapped[str | None] = mapped_column(String(128))


class Policy(Base):
    """A model's policy at its newest version. `map_id`: set if the policy names its map by id."""

    __tablename__ = "policies"

    model: Mapped[str] = mapped_column(String(512), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    version_id: Mapped[int] = mapped_column(ForeignKey("policy_versions.id"))
    map_id: Mapped[str | None] = mapped_column(ForeignKey("maps.id"), index=True)


class Evaluation(Base):
    """What a job of the kind `evaluation` compares, and its curve once it has succeeded.

    It has only the id of its map, since it outlives the map.
    """

    __tablename__ = "evaluations"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    methods: Mapped[list[str]] = mapped_column(JSON)
    ratios: Mapped[list[float]] = mapped_column(JSON)
    selectors: Mapped[list[Any]] = mapped_column(JSON)
    """Each by name, or an object of its numbers."""
    metric: Mapped[str] = mapped_column(String(32))
    margin: Mapped[float] = mapped_column(Double)
    questions: Mapped[int | None] = mapped_column(Integer)
    """As the request gave it; `pages` of the job counts those to ask."""
    map_id: Mapped[str | None] = mapped_column(String(32), index=True)
    map_version: Mapped[int | None] = mapped_column(Integer)
    map_revision: Mapped[str | None] = mapped_column(String(128))
    result: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))


class IdempotencyKey(Base):
    """A client's Idempotency-Key, the request it came with and the job it got. Each API key has its own."""

    __tablename__ = "idempotency_keys"

    key_name: Mapped[str] = mapped_column(String(64), primary_key=True)
    """Name of the API key; empty where callers need none."""
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    request_hash: Mapped[str] = mapped_column(String(64))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)


class ApiKey(Base):
    """An API key, stored as its SHA-256. Revoked keys stay as a record."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    name: Mapped[str] = mapped_column(String(64))
    active_name: Mapped[str | None] = mapped_column(String(64), unique=True)
    """The name while the key is in use: empty once it is revoked, and free for another."""
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    scopes: Mapped[str] = mapped_column(String(64))
    """Names of scopes, with commas between them."""
    requests_per_minute: Mapped[int | None] = mapped_column(Integer)
    concurrent_requests: Mapped[int | None] = mapped_column(Integer)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    revoked_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class Dataset(Base):
    """Uploaded pages, which never change. Other pages under the same name have another id and checksum."""

    __tablename__ = "datasets"
    __table_args__ = (Index(None, "created_at", "id"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    pages: Mapped[int] = mapped_column(Integer)
    words: Mapped[int] = mapped_column(BigInteger)
    questions: Mapped[int] = mapped_column(BigInteger)
    bytes: Mapped[int] = mapped_column(BigInteger)
    checksum: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class Blob(Base):
    """A blob of the blob store. Some dataset has it, or an upload is about to; else it is cleared away.

    A blob that is cleared away and written again is another row, so whoever refers to the former one fails.
    """

    __tablename__ = "blobs"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    checksum: Mapped[str] = mapped_column(String(64), unique=True)
    bytes: Mapped[int] = mapped_column(BigInteger)
    claimed_at: Mapped[datetime] = mapped_column(UtcDateTime)
    """When somebody last was about to write it."""


class DatasetPack(Base):
    """Consecutive pages of a dataset, which lie together in a blob (`headmap.datasets.packs`)."""

    __tablename__ = "dataset_packs"

    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id", ondelete="CASCADE"), primary_key=True)
    first: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    pages: Mapped[int] = mapped_column(Integer)
    blob_id: Mapped[str] = mapped_column(ForeignKey("blobs.id"), index=True)


class DatasetPage(Base):
    """A page that lies in the registry itself, until `services.migrate` moves it: its record, and its picture's file.

    Releases without a blob store kept all pages so.
    """

    __tablename__ = "dataset_pages"

    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    record: Mapped[str] = mapped_column(Text)
    picture: Mapped[bytes] = mapped_column(LargeBinary)
