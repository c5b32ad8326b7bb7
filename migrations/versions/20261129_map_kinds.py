"""Kinds of maps. All maps of before are visual.

After a step back, text-retrieval maps count as visual ones: delete them first.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "20261129_map_kinds"
down_revision = "20261129_evaluations"
branch_labels = None
depends_on = None

_COLUMNS = {"jobs": "map_kind", "maps": "kind"}


def upgrade() -> None:
    for table, name in _COLUMNS.items():
        op.add_column(table, sa.Column(name, sa.String(length=16), nullable=False, server_default="visual"))


def downgrade() -> None:
    for table, name in reversed(_COLUMNS.items()):
        with op.batch_alter_table(table) as batch:
            batch.drop_column(name)
