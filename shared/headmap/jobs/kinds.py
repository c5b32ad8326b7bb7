"""What a kind of job is: how results of its shards are checked, added up and filed. The rest of a job knows no kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from sqlalchemy.orm import Session

from headmap.jobs import evaluation_kind, profile_kind
from headmap.jobs.work import ShardSpec
from headmap.registry.job_params import EVALUATION, PROFILE
from headmap.registry.tables import Job

Settle = Callable[[Session, Job], None]
"""Ends a locked, running job, or gives it more pages. Runs in the fold's last transaction, which must be short."""


class JobKind(Protocol):
    """One kind of job; a module can be one. Everything here is repeatable: workers die at any moment."""

    UNIT: str
    """What a shard has some of: `pages`."""

    def parameters(self, session: Session, job: Job) -> Mapping[str, Any]:
        """Return what a shard's scorer needs besides the fields of ShardSpec, as JSON values."""
        ...

    def check(self, job: Job, body: bytes) -> None:
        """Check a shard's result against a locked job. Raises a HeadmapError with a 4xx status, which ends the job."""
        ...

    def fold(self, spec: ShardSpec, bodies: Iterator[bytes]) -> Settle:
        """Add up all results, in the order of the shards, outside any transaction. The same bytes give the same end.

        `spec` is of the fold itself, `bodies` can be read once. Results stay in the registry, unless Settle drops
        them (`headmap.jobs.results`).
        """
        ...


KINDS: Mapping[str, JobKind] = {PROFILE: profile_kind, EVALUATION: evaluation_kind}
"""By `Job.kind`."""
