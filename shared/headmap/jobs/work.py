"""A shard's work: the interface between jobs, which know no model, and the profiler, which knows no job."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from headmap.looks import PageLooks
from headmap.page_sums import PageSums


class ShardAborted(Exception):
    """Raised by `on_page`: the lease is lost, the job cancelled or the worker going; what was done is dropped."""


@dataclass(frozen=True)
class ShardSpec:
    """Pages `first` to `first + count - 1` of a job, and everything that decides their scores."""

    job_id: str
    number: int
    model: str
    revision: str
    dataset: str
    dataset_checksum: str | None
    rule: str
    seed: int
    first: int
    count: int
    max_new_tokens: int


@dataclass(frozen=True, eq=False)
class ShardResult:
    """The sums of a shard's pages, and by page number the looks of a job's first pages."""

    sums: PageSums
    looks: Mapping[int, PageLooks] = field(default_factory=dict)


OnPage = Callable[[int], None]
"""Called with the pages of this shard that are done; more often does no harm. Raises ShardAborted to stop the work."""


class ShardScorer(Protocol):
    """Scores one shard. The same spec gives the same result to the bit, whoever runs it.

    A HeadmapError of status 4xx ends the job; any other error is tried again, DeviceFailed by another process.
    """

    def __call__(self, spec: ShardSpec, on_page: OnPage) -> ShardResult: ...
