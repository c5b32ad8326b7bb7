"""The looks of a job's first pages. They are written with their shard's result, and read by the job's map."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import select
from sqlalchemy.orm import Session

from headmap.errors import PageNotFound
from headmap.looks import PageLooks
from headmap.registry.maps import get_map
from headmap.registry.tables import PageLook


def add_looks(session: Session, job_id: str, looks: Mapping[int, PageLooks]) -> None:
    """Store looks by page number. If the job fails or is cancelled, they are deleted."""
    for page, found in sorted(looks.items()):
        row = PageLook(job_id=job_id, page=page, about=found.about(), picture=found.picture, arrays=found.packed())
        session.add(row)
    session.flush()


def get_looks(session: Session, map_id: str, page: int) -> PageLooks:
    """Return where the heads of a map looked on page `page` of its job. Raises MapNotFound, PageNotFound."""
    pages = list_looks(session, map_id)
    if page not in pages:
        stored = f"kept are {', '.join(map(str, pages))}" if pages else "it has none: such come with a profile"
        raise PageNotFound(f"page: map {map_id!r} has no looks at page {page}; {stored}", param="page")
    job_id = get_map(session, map_id).job_id
    row = session.execute(select(PageLook).where(PageLook.job_id == job_id, PageLook.page == page)).scalar_one()
    return PageLooks.unpack(row.picture, row.about, row.arrays)


def list_looks(session: Session, map_id: str) -> list[int]:
    """List the pages of a map's job that have stored looks; an import has none. Raises MapNotFound."""
    job_id = get_map(session, map_id).job_id
    return list(session.scalars(select(PageLook.page).where(PageLook.job_id == job_id).order_by(PageLook.page)))
