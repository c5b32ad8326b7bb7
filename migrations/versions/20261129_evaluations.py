"""Evaluations: jobs that measure how small the cache may be."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "20261129_evaluations"
down_revision = "20261129_scopes"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "evaluations",
        sa.Column("job_id", sa.String(length=32), nullable=False),
        sa.Column("methods", sa.JSON(), nullable=False),
        sa.Column("ratios", sa.JSON(), nullable=False),
        sa.Column("metric", sa.String(length=32), nullable=False),
        sa.Column("margin", sa.Double(), nullable=False),
        sa.Column("questions", sa.Integer(), nullable=True),
        sa.Column("map_id", sa.String(length=32), nullable=True),
        sa.Column("map_version", sa.Integer(), nullable=True),
        sa.Column("map_revision", sa.String(length=128), nullable=True),
        sa.Column("result", sa.JSON(none_as_null=True), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_evaluations_job_id_jobs", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", name="pk_evaluations"),
    )
    op.create_index("ix_evaluations_map_id", "evaluations", ["map_id"])


def downgrade() -> None:
    op.drop_index("ix_evaluations_map_id", "evaluations")
    op.drop_table("evaluations")
