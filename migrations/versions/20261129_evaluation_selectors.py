"""What selects the tokens, in evaluations. Those that are there had one selector, `snapkv`."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "20261129_evaluation_selectors"
down_revision = "20261129_map_kinds"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("evaluations") as batch:
        batch.add_column(sa.Column("selectors", sa.JSON(), nullable=False, server_default='["snapkv"]'))


def downgrade() -> None:
    with op.batch_alter_table("evaluations") as batch:
        batch.drop_column("selectors")
