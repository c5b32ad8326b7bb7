"""The span of the request that made a job, and how many jobs have ended in each state from here on."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "20261129_traces"
down_revision = "20261129_map_versions"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("traceparent", sa.String(length=64), nullable=True))
    op.create_table(
        "ended_jobs",
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("state", name="pk_ended_jobs"),
    )


def downgrade() -> None:
    op.drop_table("ended_jobs")
    with op.batch_alter_table("jobs") as jobs:
        jobs.drop_column("traceparent")
