"""Run one shard: lease it, score it, write the result; the body of the Celery task, without Celery.

The fold of a job runs in the same way, and at once after the job's last shard.
"""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

from sqlalchemy.orm import Session

from headmap.context import request_id
from headmap.errors import DeviceFailed, HeadmapError, PackageMissing, RegistryUnavailable
from headmap.jobs.kinds import KINDS
from headmap.jobs.leases import Lease, acquire, complete, complete_fold, fail, fold_is_due, hand_back, renew
from headmap.jobs.results import stream_results
from headmap.jobs.work import OnPage, ShardAborted, ShardScorer
from headmap.registry.session import Database
from headmap.registry.tables import FOLD, ShardState
from headmap.settings import Settings
from headmap.tracing import NO_TRACER, Attributes, Span, Tracer, entered

logger = logging.getLogger(__name__)

_BEAT_SECONDS = 1.0

Observe = Callable[[str, int, float], None]
"""Told of each attempt when it ends: its outcome as `run_shard` has it, the shard's pages, and the seconds it took."""


def unobserved(outcome: str, pages: int, seconds: float) -> None:
    """The `Observe` that counts nothing."""


class Heartbeat:
    """Renews a lease and writes the progress once a second, while the thread that made it does the work.

    After `settings.shard_seconds` it fails the attempt, and the work stops at its next page.
    """

    def __init__(self, database: Database, lease: Lease, settings: Settings) -> None:
        self._database, self._lease, self._seconds = database, lease, settings.lease_seconds
        self._beat = min(_BEAT_SECONDS, settings.lease_seconds / 3)
        self._settings = settings
        self._context = contextvars.copy_context()
        self.outcome = "lost"
        """What became of an attempt that was aborted."""
        self._pages_done = 0
        self._lost = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._context.run, args=(self._run,), name="heartbeat", daemon=True)

    def on_page(self, pages_done: int) -> None:
        """Note the progress. Raises ShardAborted once the lease is lost."""
        self._pages_done = pages_done
        if self._lost.is_set():
            raise ShardAborted

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        ends = time.monotonic() + self._settings.shard_seconds
        while not self._stop.wait(min(self._beat, max(0.0, ends - time.monotonic()))):
            try:
                if time.monotonic() >= ends:
                    error = TimeoutError(f"not done within {self._settings.shard_seconds:g} s")
                    self.outcome = _give_up(self._database, self._settings, self._lease, error)
                    self._lost.set()
                    return
                with self._database.write() as session:
                    renewed = renew(session, self._lease, seconds=self._seconds, pages_done=self._pages_done)
            except RegistryUnavailable as error:
                # While the registry is unavailable, nobody can take the lease over: keep working and keep asking.
                logger.warning("lease not renewed: %s", error)
                continue
            except Exception:
                logger.exception("lease not renewed")
                continue
            if not renewed:
                self._lost.set()
                return


def run_shard(
    database: Database,
    settings: Settings,
    scorer: Callable[[], ShardScorer],
    job_id: str,
    number: int,
    *,
    owner: str,
    device: str | None = None,
    observe: Observe = unobserved,
    tracer: Tracer = NO_TRACER,
) -> str:
    """Do one shard or fold if it is open, and return the outcome.

    `scorer` returns the process's scorer. It is called under the lease, so the attempt fails if no scorer can be made.
    `device`: the kind that the scorer's results come from. Log lines have the id of the request that made the job, and
    the attempt is a span of its trace.

    Outcomes: `skipped` (no work, or another worker has the shard), `done`, `lost` (another worker has the shard now, or
    the job was cancelled), `retry` (after a back-off) or `failed`. Waits for an unavailable registry, then raises
    RegistryUnavailable: the lease expires and another attempt follows. Raises DeviceFailed after giving the shard back:
    this process cannot score any other shard. Raises an error with `not_here` after handing the shard back uncounted:
    this host cannot score it. `observe` is told of these as `retry` and `handed_back`, and of folds nothing.
    """
    with database.write() as session:
        lease = acquire(
            session,
            job_id,
            number,
            owner=owner,
            seconds=settings.lease_seconds,
            max_attempts=settings.max_attempts,
            device=device,
        )
    if lease is None:
        return "skipped"
    folds = number == FOLD
    token = request_id.set(lease.request_id)
    started = time.monotonic()
    try:
        with entered(_begin_span(tracer, lease)) as span:
            outcome = _attempt(database, settings, scorer, lease)
            _describe_end(span, outcome)
        if not folds:
            observe(outcome, lease.spec.count, time.monotonic() - started)
    except HeadmapError as error:
        if error.not_here or isinstance(error, DeviceFailed):
            observe("handed_back" if error.not_here else "retry", lease.spec.count, time.monotonic() - started)
        raise
    finally:
        request_id.reset(token)
    if outcome == "done" and not folds:
        _fold_if_due(database, settings, scorer, job_id, owner, tracer)
    return outcome


def _begin_span(tracer: Tracer, lease: Lease) -> Span:
    about: Attributes = {
        "messaging.operation.name": "process",
        "gen_ai.request.model": lease.spec.model,
        "headmap.job.id": lease.spec.job_id,
        "headmap.shard.number": lease.spec.number,
        "headmap.shard.attempt": lease.attempt,
        "headmap.shard.pages": lease.spec.count,
        "headmap.worker": lease.owner,
    }
    carrier = {} if lease.traceparent is None else {"traceparent": lease.traceparent}
    return tracer.start("fold job" if lease.spec.number == FOLD else "score shard", "consumer", carrier, about)


def _describe_end(span: Span, outcome: str) -> None:
    span.set({"headmap.shard.outcome": outcome})
    if outcome in ("retry", "failed"):
        span.fail(outcome)


def _fold_if_due(
    database: Database, settings: Settings, scorer: Callable[[], ShardScorer], job_id: str, owner: str, tracer: Tracer
) -> None:
    """Run the fold if the job's last shard is done. If this fails, a sweeper finds the fold due."""
    try:
        with database.read() as session:
            due = fold_is_due(session, job_id)
        if due:
            run_shard(database, settings, scorer, job_id, FOLD, owner=owner, tracer=tracer)
    except HeadmapError as error:
        logger.warning("the fold of a job waits for the sweeper: %s", error)


def _attempt(database: Database, settings: Settings, scorer: Callable[[], ShardScorer], lease: Lease) -> str:
    context = {"job_id": lease.spec.job_id, "shard": lease.spec.number, "attempt": lease.attempt}
    started = time.monotonic()
    heartbeat = Heartbeat(database, lease, settings)
    try:
        with heartbeat:
            write = _work(database, settings, scorer, lease, heartbeat.on_page)
        if not database.patiently(write, seconds=settings.lease_seconds):
            raise ShardAborted
    except ShardAborted:
        logger.info("shard aborted", extra={**context, "outcome": heartbeat.outcome})
        return heartbeat.outcome
    except RegistryUnavailable:
        raise
    except DeviceFailed as error:
        _give_up(database, settings, lease, error)
        raise
    except Exception as error:
        cause = PackageMissing(f"a package is missing: {error}") if isinstance(error, ImportError) else error
        if not isinstance(cause, HeadmapError) or not cause.not_here:
            return _give_up(database, settings, lease, error)
        logger.warning("shard handed back, which this host cannot do: %s", cause, extra=context)
        reason = f"{lease.owner.partition(':')[0]}: {_reason(cause)}"
        database.patiently(lambda session: hand_back(session, lease, reason), seconds=settings.lease_seconds)
        if cause is error:
            raise
        raise cause from error
    logger.info(
        "fold done" if lease.spec.number == FOLD else "shard done",
        extra={**context, "seconds": round(time.monotonic() - started, 3)},
    )
    return "done"


def _work(
    database: Database, settings: Settings, scorer: Callable[[], ShardScorer], lease: Lease, on_page: OnPage
) -> Callable[[Session], bool]:
    """Score the shard, or fold the job. Returns what writes the outcome, False if the lease is lost."""
    spec = lease.spec
    if spec.number == FOLD:
        bodies = stream_results(database, spec.job_id, seconds=settings.lease_seconds)
        settle = KINDS[spec.kind].fold(spec, _watched(bodies, on_page))
        return lambda session: complete_fold(session, lease, settle)
    result = scorer()(spec, on_page)
    return lambda session: complete(session, lease, result)


def _watched(bodies: Iterator[bytes], on_page: OnPage) -> Iterator[bytes]:
    """The same results. Raises ShardAborted once the lease is lost, and if there are none: the job was cancelled."""
    found = False
    for body in bodies:
        on_page(0)
        found = True
        yield body
    if not found:
        raise ShardAborted


def _give_up(database: Database, settings: Settings, lease: Lease, error: Exception) -> str:
    permanent = isinstance(error, HeadmapError) and 400 <= error.status < 500
    context = {"job_id": lease.spec.job_id, "shard": lease.spec.number, "attempt": lease.attempt}
    logger.warning("shard failed", exc_info=error, extra=context)
    reason = _reason(error)
    state = database.patiently(
        lambda session: fail(
            session,
            lease,
            reason,
            permanent=permanent,
            max_attempts=settings.max_attempts,
            back_off=settings.retry_seconds,
        ),
        seconds=settings.lease_seconds,
    )
    if state is None:
        return "lost"
    return "failed" if state is ShardState.FAILED else "retry"


def _reason(error: Exception) -> str:
    reason = error.detail if isinstance(error, HeadmapError) else f"{type(error).__name__}: {error}"
    return reason.replace("\0", "")[:1000]  # PostgreSQL stores no NUL
