"""Policies: named kv of a model, and all their versions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "20261129_policies"
down_revision = "20261129_job_progress"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "policy_versions",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("model", sa.String(length=512), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("kv", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("evaluation_id", sa.String(length=32), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(length=128), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_policy_versions"),
        sa.UniqueConstraint("model", "name", "version", name="uq_policy_versions_model_name_version"),
    )
    op.create_index("ix_policy_versions_created_at_id", "policy_versions", ["created_at", "id"])
    op.create_table(
        "policies",
        sa.Column("model", sa.String(length=512), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.Column("map_id", sa.String(length=32), nullable=True),
        sa.ForeignKeyConstraint(["version_id"], ["policy_versions.id"], name="fk_policies_version_id_policy_versions"),
        sa.ForeignKeyConstraint(["map_id"], ["maps.id"], name="fk_policies_map_id_maps"),
        sa.PrimaryKeyConstraint("model", "name", name="pk_policies"),
    )
    op.create_index("ix_policies_map_id", "policies", ["map_id"])


def downgrade() -> None:
    op.drop_index("ix_policies_map_id", "policies")
    op.drop_table("policies")
    op.drop_index("ix_policy_versions_created_at_id", "policy_versions")
    op.drop_table("policy_versions")
