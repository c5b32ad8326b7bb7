"""What workers tell of themselves."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Index, String
from sqlalchemy.orm import Mapped, mapped_column

from headmap.registry.tables.base import Base, UtcDateTime


class WorkerModel(Base):
    """A model at a revision that a worker takes shards of, and the kind of its device. Workers renew their rows."""

    __tablename__ = "worker_models"
    __table_args__ = (Index(None, "model", "revision"),)

    worker: Mapped[str] = mapped_column(String(128), primary_key=True)
    model: Mapped[str] = mapped_column(String(512), primary_key=True)
    revision: Mapped[str] = mapped_column(String(128), primary_key=True)
    device: Mapped[str] = mapped_column(String(16))
    seen_at: Mapped[datetime] = mapped_column(UtcDateTime)
