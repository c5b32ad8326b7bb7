"""Shards of jobs, their results, and the sweep over those whose leases ran out."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from sqlalchemy import ForeignKey, Index, Integer, LargeBinary, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from headmap.registry.tables.base import Base, UtcDateTime


class ShardState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


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


class StoredResult(Base):
    """What the scoring of a shard gave, in the form of the job's kind; until the fold, or for ever.

    It is apart from the shard, so that the many reads of shards do not meet large values.
    """

    __tablename__ = "shard_results"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    body: Mapped[bytes] = mapped_column(LargeBinary)


class Sweep(Base):
    """When the next sweep is due, in the one row with id 1. Whoever moves the time on does that sweep."""

    __tablename__ = "sweeps"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    next_at: Mapped[datetime] = mapped_column(UtcDateTime)
