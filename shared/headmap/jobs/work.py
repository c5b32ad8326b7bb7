"""The interface of a shard's work. Jobs know nothing about models, and the profiler knows nothing about jobs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from headmap.looks import PageLooks


class ShardAborted(Exception):
    """`on_page` raises this if the lease is lost, the job cancelled or the worker stopping. The work is dropped."""


@dataclass(frozen=True)
class ShardSpec:
    """Pages `first` to `first + count - 1` of a job, and everything that determines their scores.

    A job's fold has the number FOLD and no pages.
    """

    job_id: str
    kind: str
    number: int
    model: str
    revision: str
    dataset: str
    dataset_checksum: str | None
    seed: int
    first: int
    count: int
    max_new_tokens: int
    parameters: Mapping[str, Any]
    """What only this kind of job has, as JSON values."""


@dataclass(frozen=True, eq=False)
class ShardResult:
    """A shard's result in the form of its job's kind, and the looks of the job's first pages by page number."""

    body: bytes
    looks: Mapping[int, PageLooks] = field(default_factory=dict)


OnPage = Callable[[int], None]
"""Called with the pages of this shard that are done; more often does no harm. Raises ShardAborted to stop the work."""


class ShardScorer(Protocol):
    """Scores one shard. The same spec gives the same result bit for bit on any worker.

    A HeadmapError with a 4xx status ends the job. Any other error leads to a retry, DeviceFailed in another process.
    """

    def __call__(self, spec: ShardSpec, on_page: OnPage) -> ShardResult: ...
