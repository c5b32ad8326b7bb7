"""Kinds of jobs; results of shards as bytes in a table of their own; no shards of jobs that have succeeded."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import sqlalchemy as sa
from alembic import op

revision = "20261129_shard_results"
down_revision = "20261129_policies"
branch_labels = None
depends_on = None

_HEADER = struct.Struct("<6q")
_COUNTS = ("tokens_seen", "tokens_matched", "hits")
_SUMS = ("sums", "squares", "products")
_FOLD = -1

_OF_OPEN_JOBS = "job_id IN (SELECT id FROM jobs WHERE state IN ('queued', 'running'))"
_SUCCEEDED = "job_id IN (SELECT id FROM jobs WHERE state = 'succeeded')"
_OTHER_KIND = "job_id IN (SELECT id FROM jobs WHERE kind <> 'profile')"
_RESULTS = sa.text(f"""
    SELECT s.job_id, s.number, s.count, s.tokens_seen, s.tokens_matched, s.hits, s.sums, s.squares, s.products,
           j.num_layers, j.num_heads
    FROM shards s JOIN jobs j ON j.id = s.job_id WHERE s.state = 'done' AND s.{_OF_OPEN_JOBS}
    ORDER BY s.job_id, s.number
""")  # noqa: S608  constants of this file
_BODIES = sa.text("SELECT job_id, number, body FROM shard_results ORDER BY job_id, number")
# One shard of each job whose fold is open is scored again, since an older worker makes the map with the last shard.
_LAST_SHARDS = sa.text("""
    SELECT f.job_id, MAX(s.number) AS number FROM shards f JOIN shards s ON s.job_id = f.job_id
    WHERE f.number = -1 AND f.state IN ('queued', 'running') GROUP BY f.job_id
""")
_AT_ONCE = 100


def upgrade() -> None:
    op.create_table(
        "shard_results",
        sa.Column("job_id", sa.String(length=32), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_shard_results_job_id_jobs", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "number", name="pk_shard_results"),
    )
    results = sa.table("shard_results", sa.column("job_id"), sa.column("number"), sa.column("body"))
    connection = op.get_bind()
    for rows in connection.execute(_RESULTS, execution_options={"yield_per": _AT_ONCE}).partitions():
        values = [{"job_id": row.job_id, "number": row.number, "body": _body(row)} for row in rows]
        connection.execute(results.insert(), values)
    with op.batch_alter_table("jobs") as batch:
        batch.add_column(sa.Column("kind", sa.String(length=16), nullable=False, server_default="profile"))
        batch.add_column(sa.Column("shard_pages", sa.Integer(), nullable=True))
        batch.alter_column("rule", existing_type=sa.String(length=32), nullable=True)
    op.execute("""
        UPDATE jobs SET shard_pages =
            COALESCE((SELECT s.count FROM shards s WHERE s.job_id = jobs.id AND s.number = 0), pages)
    """)
    with op.batch_alter_table("jobs") as batch:
        batch.alter_column("shard_pages", existing_type=sa.Integer(), nullable=False)
    op.execute(f"DELETE FROM shards WHERE {_SUCCEEDED}")  # noqa: S608  constants of this file
    with op.batch_alter_table("shards") as batch:
        for name in (*_COUNTS, *_SUMS):
            batch.drop_column(name)


def downgrade() -> None:
    for table in ("shard_results", "shards", "page_looks", "idempotency_keys"):
        op.execute(f"DELETE FROM {table} WHERE {_OTHER_KIND}")  # noqa: S608  constants of this file
    op.execute("DELETE FROM jobs WHERE kind <> 'profile'")
    with op.batch_alter_table("shards") as batch:
        for name in _COUNTS:
            batch.add_column(sa.Column(name, sa.BigInteger(), nullable=True))
        for name in _SUMS:
            batch.add_column(sa.Column(name, sa.Text(), nullable=True))
    connection = op.get_bind()
    shards = sa.table("shards", *(sa.column(name) for name in ("job_id", "number", *_COUNTS, *_SUMS)))
    for rows in connection.execute(_BODIES, execution_options={"yield_per": _AT_ONCE}).partitions():
        for row in rows:
            # The total of former rounds goes to the job's first shard. Their other shards count as zeros.
            its = (shards.c.job_id == row.job_id, shards.c.number == max(row.number, 0))
            connection.execute(shards.update().where(*its).values(_columns(row.body)))
    for row in connection.execute(_LAST_SHARDS).all():
        its_number = {"job_id": row.job_id, "number": row.number}
        connection.execute(_PAGES_AGAIN, its_number)
        connection.execute(_SHARD_AGAIN, its_number)
    op.execute(f"DELETE FROM shards WHERE number = {_FOLD}")  # noqa: S608  constants of this file
    with op.batch_alter_table("jobs") as batch:
        batch.alter_column("rule", existing_type=sa.String(length=32), nullable=False)
        batch.drop_column("shard_pages")
        batch.drop_column("kind")
    op.drop_table("shard_results")


_PAGES_AGAIN = sa.text("""
    UPDATE jobs SET pages_done = pages_done - (SELECT s.count FROM shards s
        WHERE s.job_id = :job_id AND s.number = :number) WHERE id = :job_id
""")
_SHARD_AGAIN = sa.text("""
    UPDATE shards SET state = 'queued', pages_done = 0, enqueued_at = NULL WHERE job_id = :job_id AND number = :number
""")


def _body(row: Any) -> bytes:
    """The layout of headmap.page_sums when this was written."""
    shape = (row.num_layers, row.num_heads)
    counts = [getattr(row, name) or 0 for name in _COUNTS]
    header = _HEADER.pack(row.count, *counts, *shape)
    arrays = [
        np.zeros(size) if text is None else np.array(json.loads(text), dtype="<f8")
        for text, size in zip((row.sums, row.squares, row.products), ((2, *shape), shape, shape), strict=True)
    ]
    return header + b"".join(array.astype("<f8").tobytes() for array in arrays)


def _columns(body: bytes) -> dict[str, Any]:
    _, *counts, num_layers, num_heads = _HEADER.unpack_from(body)
    values = np.frombuffer(body, "<f8", offset=_HEADER.size).reshape(4, num_layers, num_heads)
    sums = (values[:2], values[2], values[3])
    return {
        **dict(zip(_COUNTS, counts, strict=True)),
        **{name: json.dumps(array.tolist()) for name, array in zip(_SUMS, sums, strict=True)},
    }
