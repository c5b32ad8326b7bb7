"""What queues need: the device of a job, which worker has which model, whose turn it is to sweep, and an index."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "20261129_queues"
down_revision = "20261129_shard_results"
branch_labels = None
depends_on = None

_QUEUED = sa.text("state = 'queued'")


def upgrade() -> None:
    op.add_column("jobs", sa.Column("device", sa.String(length=16), nullable=True))
    op.add_column("jobs", sa.Column("handed_back", sa.Text(), nullable=True))
    op.create_index(
        "ix_shards_queued",
        "shards",
        ["job_id", "enqueued_at", "due_at", "number"],
        sqlite_where=_QUEUED,
        postgresql_where=_QUEUED,
    )
    op.create_table(
        "worker_models",
        sa.Column("worker", sa.String(length=128), nullable=False),
        sa.Column("model", sa.String(length=512), nullable=False),
        sa.Column("revision", sa.String(length=128), nullable=False),
        sa.Column("device", sa.String(length=16), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("worker", "model", "revision", name="pk_worker_models"),
    )
    op.create_index("ix_worker_models_model_revision", "worker_models", ["model", "revision"])
    sweeps = op.create_table(
        "sweeps",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("next_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_sweeps"),
    )
    op.execute(sweeps.insert().values(id=1, next_at=sa.func.current_timestamp()))


def downgrade() -> None:
    op.drop_table("sweeps")
    op.drop_index("ix_worker_models_model_revision", "worker_models")
    op.drop_table("worker_models")
    op.drop_index("ix_shards_queued", "shards")
    with op.batch_alter_table("jobs") as jobs:
        jobs.drop_column("handed_back")
        jobs.drop_column("device")
