"""Looks of sample pages, stability of maps, jobs that go on until stable.

Shards of running jobs are scored again: their sums lack what maps are made of from here on.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "20261122_page_looks"
down_revision = "20261122_api_keys"
branch_labels = None
depends_on = None

_AGAIN = """
    UPDATE shards SET state = 'queued', pages_done = 0, enqueued_at = NULL
    WHERE state = 'done' AND job_id IN (SELECT id FROM jobs WHERE state IN ('queued', 'running'))
"""


def upgrade() -> None:
    op.create_table(
        "page_looks",
        sa.Column("job_id", sa.String(length=32), nullable=False),
        sa.Column("page", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("about", sa.Text(), nullable=False),
        sa.Column("picture", sa.LargeBinary(), nullable=False),
        sa.Column("arrays", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_page_looks_job_id_jobs", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "page", name="pk_page_looks"),
    )
    with op.batch_alter_table("shards") as batch:
        batch.add_column(sa.Column("products", sa.Text(), nullable=True))
    with op.batch_alter_table("jobs") as batch:
        batch.add_column(sa.Column("min_pages", sa.Integer(), nullable=True))
        batch.add_column(sa.Column("max_pages", sa.Integer(), nullable=True))
        batch.add_column(sa.Column("stable_overlap", sa.Double(), nullable=True))
    with op.batch_alter_table("maps") as batch:
        batch.add_column(sa.Column("halves_top5pct_overlap", sa.Double(), nullable=True))
        batch.add_column(sa.Column("halves_spearman", sa.Double(), nullable=True))
    op.execute(_AGAIN)


def downgrade() -> None:
    op.execute(_AGAIN)
    with op.batch_alter_table("maps") as batch:
        batch.drop_column("halves_spearman")
        batch.drop_column("halves_top5pct_overlap")
    with op.batch_alter_table("jobs") as batch:
        batch.drop_column("stable_overlap")
        batch.drop_column("max_pages")
        batch.drop_column("min_pages")
    with op.batch_alter_table("shards") as batch:
        batch.drop_column("products")
    op.drop_table("page_looks")
