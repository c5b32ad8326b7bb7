"""The id of the request that made a job, for the logs of those who work on it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "20261122_job_request_ids"
down_revision = "20261122_page_looks"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("request_id", sa.String(length=64), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("jobs") as jobs:
        jobs.drop_column("request_id")
