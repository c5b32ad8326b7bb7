"""Which models the workers take shards of: each says so again and again, so that readers know which jobs can go on."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta

from sqlalchemy import delete, insert
from sqlalchemy.orm import Session

from headmap.registry.session import changed, utc_now
from headmap.registry.tables import WorkerModel

_FORGET = timedelta(hours=1)


def report_models(session: Session, worker: str, device: str, models: Collection[tuple[str, str]]) -> None:
    """Write the models that a worker takes, as (name, revision), in place of what it said before.

    Also drops what workers said that have been gone for an hour.
    """
    now = utc_now(session)
    gone = (WorkerModel.worker == worker) | (WorkerModel.seen_at < now - _FORGET)
    changed(session, delete(WorkerModel).where(gone))
    rows = [
        {"worker": worker, "model": model, "revision": revision, "device": device, "seen_at": now}
        for model, revision in sorted(models)
    ]
    if rows:
        session.execute(insert(WorkerModel), rows)
