"""What an API key may do, and Idempotency-Keys that belong to one API key.

Keys that are there may do everything. An Idempotency-Key that is there goes to the API key of its job. On the way down,
of equal Idempotency-Keys the first that was used stays: clients repeat a request within a day.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "20261129_scopes"
down_revision = "20261129_traces"
branch_labels = None
depends_on = None

_OWNERS = """
    UPDATE idempotency_keys SET
        key_name = COALESCE((SELECT j.key_name FROM jobs j WHERE j.id = idempotency_keys.job_id), '')
"""
_REPEATED = """
    DELETE FROM idempotency_keys WHERE EXISTS (
        SELECT 1 FROM idempotency_keys other WHERE other.key = idempotency_keys.key
            AND (other.created_at < idempotency_keys.created_at
                OR (other.created_at = idempotency_keys.created_at AND other.key_name < idempotency_keys.key_name))
    )
"""


def upgrade() -> None:
    with op.batch_alter_table("api_keys") as batch:
        batch.add_column(sa.Column("scopes", sa.String(length=64), nullable=False, server_default="admin"))
    with op.batch_alter_table("idempotency_keys") as batch:
        batch.add_column(sa.Column("key_name", sa.String(length=64), nullable=False, server_default=""))
    op.execute(_OWNERS)
    _primary_key("key_name", "key")


def downgrade() -> None:
    op.execute(_REPEATED)
    _primary_key("key")
    with op.batch_alter_table("idempotency_keys") as batch:
        batch.drop_column("key_name")
    with op.batch_alter_table("api_keys") as batch:
        batch.drop_column("scopes")


def _primary_key(*columns: str) -> None:
    with op.batch_alter_table("idempotency_keys") as batch:
        batch.drop_constraint("pk_idempotency_keys", type_="primary")
        batch.create_primary_key("pk_idempotency_keys", list(columns))
