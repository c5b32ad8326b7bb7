"""The span of the request that made a job, for the traces of those who work on it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "20261129_traces"
down_revision = "20261129_policies"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("traceparent", sa.String(length=64), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("jobs") as jobs:
        jobs.drop_column("traceparent")
