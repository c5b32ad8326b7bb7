"""Uploaded datasets and their pages; jobs and maps say which pages a dataset's name stood for."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "20261122_datasets"
down_revision = "20261122_job_request_ids"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "datasets",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("pages", sa.Integer(), nullable=False),
        sa.Column("words", sa.BigInteger(), nullable=False),
        sa.Column("questions", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("checksum", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_datasets"),
        sa.UniqueConstraint("name", name="uq_datasets_name"),
    )
    op.create_index("ix_datasets_created_at_id", "datasets", ["created_at", "id"])

    op.create_table(
        "dataset_pages",
        sa.Column("dataset_id", sa.String(length=32), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("record", sa.Text(), nullable=False),
        sa.Column("picture", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["datasets.id"], name="fk_dataset_pages_dataset_id_datasets", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("dataset_id", "number", name="pk_dataset_pages"),
    )
    for table in ("jobs", "maps"):
        op.add_column(table, sa.Column("dataset_checksum", sa.String(length=64), nullable=True))


def downgrade() -> None:
    for table in ("jobs", "maps"):
        with op.batch_alter_table(table) as batch:
            batch.drop_column("dataset_checksum")
    op.drop_table("dataset_pages")
    op.drop_index("ix_datasets_created_at_id", "datasets")
    op.drop_table("datasets")
