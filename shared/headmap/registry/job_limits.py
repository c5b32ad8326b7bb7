"""How many jobs, and pages of jobs, one API key and all callers together may have open."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from headmap.errors import TooManyJobs
from headmap.registry.tables import Job, JobState


@dataclass(frozen=True)
class OpenLimits:
    """The limits on open jobs and on their total pages, for one API key and for all callers together.

    Callers without a key count as one caller. A job with `pages: "auto"` counts its maximum number of pages.
    """

    key_jobs: int
    key_pages: int
    jobs: int
    pages: int


def check_open(session: Session, pages: int, key_name: str | None, limits: OpenLimits) -> None:
    """Raises TooManyJobs. Simultaneous requests may each find room, and so exceed the limits by a few jobs."""
    of_job = func.coalesce(Job.max_pages, Job.pages)
    query = select(Job.key_name, func.count(), func.sum(of_job)).group_by(Job.key_name)
    found = session.execute(query.where(Job.state.in_((JobState.QUEUED, JobState.RUNNING)))).all()
    ours = [row for row in found if row[0] == key_name]
    whose = "without a key" if key_name is None else f"of key {key_name!r}"
    for rows, who, most_jobs, most_pages in (
        (ours, whose, limits.key_jobs, limits.key_pages),
        (found, "of all callers", limits.jobs, limits.pages),
    ):
        jobs, held = sum(row[1] for row in rows), sum(row[2] for row in rows)
        if jobs >= most_jobs:
            raise TooManyJobs(f"{jobs} jobs {who} are open, at most {most_jobs} may be; cancel one or wait")
        if held + pages > most_pages:
            raise TooManyJobs(
                f"pages: the open jobs {who} have {held}, with {pages} more than {most_pages}; cancel one or wait"
            )
