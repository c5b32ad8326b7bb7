"""Datasets in the blob store: which blobs there are, and which pages of a dataset lie in them.

Pages in `dataset_pages` stay there, and can be read there. `services.migrate` moves them after this script.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from headmap.errors import RegistryUnavailable

revision = "20261129_blobs"
down_revision = "20261129_queues"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "blobs",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("checksum", sa.String(length=64), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("claimed_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_blobs"),
        sa.UniqueConstraint("checksum", name="uq_blobs_checksum"),
    )
    op.create_table(
        "dataset_packs",
        sa.Column("dataset_id", sa.String(length=32), nullable=False),
        sa.Column("first", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("pages", sa.Integer(), nullable=False),
        sa.Column("blob_id", sa.String(length=32), nullable=False),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["datasets.id"], name="fk_dataset_packs_dataset_id_datasets", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["blob_id"], ["blobs.id"], name="fk_dataset_packs_blob_id_blobs"),
        sa.PrimaryKeyConstraint("dataset_id", "first", name="pk_dataset_packs"),
    )
    op.create_index("ix_dataset_packs_blob_id", "dataset_packs", ["blob_id"])


def downgrade() -> None:
    if op.get_bind().execute(sa.text("SELECT count(*) FROM dataset_packs")).scalar_one():
        raise RegistryUnavailable(
            "datasets lie in the blob store, where older code does not look: "
            "`python -m services.migrate --pages-back` brings them back into the registry"
        )
    op.drop_index("ix_dataset_packs_blob_id", "dataset_packs")
    op.drop_table("dataset_packs")
    op.drop_table("blobs")
