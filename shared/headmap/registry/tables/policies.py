"""Policies, version by version."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, Integer, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from headmap.registry.tables.base import Base, UtcDateTime


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
