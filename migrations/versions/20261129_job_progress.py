"""How far a job is, on its own row, so that readers need not look through its shards; and whose key made it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "20261129_job_progress"
down_revision = "20261129_alias_moves"
branch_labels = None
depends_on = None

_FILL = """
    UPDATE jobs SET
        pages_done = CASE WHEN state = 'succeeded' THEN pages
            ELSE (SELECT COALESCE(SUM(s.count), 0) FROM shards s WHERE s.job_id = jobs.id AND s.state = 'done') END,
        attempts = (SELECT COALESCE(MAX(s.attempt), 0) FROM shards s WHERE s.job_id = jobs.id)
"""
_RUNNING = sa.text("state = 'running'")


def upgrade() -> None:
    op.add_column("jobs", sa.Column("pages_done", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("attempts", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("key_name", sa.String(length=64), nullable=True))
    op.execute(_FILL)
    op.create_index("ix_shards_running", "shards", ["job_id"], sqlite_where=_RUNNING, postgresql_where=_RUNNING)


def downgrade() -> None:
    op.drop_index("ix_shards_running", "shards")
    with op.batch_alter_table("jobs") as jobs:
        jobs.drop_column("key_name")
        jobs.drop_column("attempts")
        jobs.drop_column("pages_done")
