"""The origin of maps that came from elsewhere; numbers of deleted maps, which no other map gets."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "20261129_map_versions"
down_revision = "20261129_blobs"
branch_labels = None
depends_on = None

_ORIGIN = {
    "origin_map_id": sa.String(length=32),
    "origin_version": sa.Integer(),
    "origin_created_at": sa.DateTime(timezone=True),
    "origin_repo": sa.String(length=256),
}


def upgrade() -> None:
    op.create_table(
        "deleted_maps",
        sa.Column("model", sa.String(length=512), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("map_id", sa.String(length=32), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("model", "version", name="pk_deleted_maps"),
    )
    with op.batch_alter_table("maps") as batch:
        for name, kind in _ORIGIN.items():
            batch.add_column(sa.Column(name, kind, nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("maps") as batch:
        for name in reversed(_ORIGIN):
            batch.drop_column(name)
    op.drop_table("deleted_maps")
