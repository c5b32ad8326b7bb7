"""Who moved aliases; whether a job's map takes `default`; tags and notes of maps."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "20261129_alias_moves"
down_revision = "20261122_datasets"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "alias_moves",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("model", sa.String(length=512), nullable=False),
        sa.Column("alias", sa.String(length=64), nullable=False),
        sa.Column("map_id", sa.String(length=32), nullable=True),
        sa.Column("previous", sa.String(length=32), nullable=True),
        sa.Column("moved_by", sa.String(length=128), nullable=True),
        sa.Column("moved_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_alias_moves"),
    )
    op.create_index("ix_alias_moves_model_alias_id", "alias_moves", ["model", "alias", "id"])
    with op.batch_alter_table("jobs") as batch:
        batch.add_column(sa.Column("promote", sa.String(length=8), server_default="auto", nullable=False))
    with op.batch_alter_table("maps") as batch:
        batch.add_column(sa.Column("tags", sa.JSON(), server_default="[]", nullable=False))
        batch.add_column(sa.Column("notes", sa.Text(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("maps") as batch:
        batch.drop_column("notes")
        batch.drop_column("tags")
    with op.batch_alter_table("jobs") as batch:
        batch.drop_column("promote")
    op.drop_index("ix_alias_moves_model_alias_id", "alias_moves")
    op.drop_table("alias_moves")
