"""Jobs: what was asked for, how many have ended, and what a repeated request gets."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from sqlalchemy import BigInteger, Double, ForeignKey, Index, Integer, LargeBinary, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from headmap.map_kinds import MapKind
from headmap.registry.tables.base import Base, UtcDateTime


class JobState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


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


class IdempotencyKey(Base):
    """A client's Idempotency-Key, the request it came with and the job it got. Each API key has its own."""

    __tablename__ = "idempotency_keys"

    key_name: Mapped[str] = mapped_column(String(64), primary_key=True)
    """Name of the API key; empty where callers need none."""
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    request_hash: Mapped[str] = mapped_column(String(64))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)


class PageLook(Base):
    """Where every head looked on one of a job's first pages (`headmap.looks`)."""

    __tablename__ = "page_looks"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    page: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    about: Mapped[str] = mapped_column(Text)
    picture: Mapped[bytes] = mapped_column(LargeBinary)
    arrays: Mapped[bytes] = mapped_column(LargeBinary)
