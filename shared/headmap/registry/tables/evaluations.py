"""What jobs of the kind `evaluation` compare, and what they find."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, Double, ForeignKey, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from headmap.registry.tables.base import Base


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
