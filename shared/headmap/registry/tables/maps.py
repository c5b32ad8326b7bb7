"""Maps, the numbers of deleted ones, and the aliases that point at them.

Scores are JSON text, so that every float reads back bit for bit.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import JSON, BigInteger, Double, ForeignKey, Index, Integer, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from headmap.map_kinds import MapKind
from headmap.registry.tables.base import Base, UtcDateTime


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
