"""Uploaded datasets, and the blobs that hold their pages."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, LargeBinary, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from headmap.registry.tables.base import Base, UtcDateTime


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
