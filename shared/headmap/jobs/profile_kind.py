"""The kind of job that profiles a model: results are sums over pages, and the fold makes a map of them.

Or it gives the job its next round of pages. Only the sums decide that, so it does not matter who folds, or how often.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sqlalchemy.orm import Session

from headmap.errors import UnsupportedModel
from headmap.head_scores import HeadScores
from headmap.jobs.results import drop_results, replace_results
from headmap.jobs.work import ShardSpec
from headmap.map_kinds import VISUAL
from headmap.page_sums import PageSums
from headmap.registry.aliases import nobody_chose
from headmap.registry.jobs import add_shards, end_job, promote_of
from headmap.registry.maps import Provenance, add_map
from headmap.registry.tables import Job, JobState

UNIT = "pages"


def parameters(session: Session, job: Job) -> Mapping[str, Any]:
    return {"kind": job.map_kind, "rule": job.rule}


def check(job: Job, body: bytes) -> None:
    """Raises UnsupportedModel if the sums do not have the job's numbers of layers and heads."""
    found, expected = PageSums.from_bytes(body).shape, (job.num_layers, job.num_heads)
    if found != expected:
        raise UnsupportedModel(f"model: scores of shape {found} for a model of {expected} layers and heads")


def fold(spec: ShardSpec, bodies: Iterator[bytes]) -> Callable[[Session, Job], None]:
    """Add up the sums of the job's pages. Raises InvalidScores for bytes that are no sums."""
    total = PageSums.from_bytes(next(bodies))
    for body in bodies:
        total += PageSums.from_bytes(body)
    return lambda session, job: _settle(session, job, total)


def _settle(session: Session, job: Job, total: PageSums) -> None:
    """End the job with its map, or give it the next round of pages.

    The job's lock and state and the unique `job_id` of maps ensure that this happens once. A job without any hit
    fails, because a map of zeros has no information.
    """
    if not total.sound():
        end_job(session, job, JobState.FAILED, error="the scores are not finite numbers >= 0")
        return
    if wants_more(job, total):
        add_shards(session, job, next_pages(job))
        replace_results(session, job.id, total.to_bytes())
        return
    if not total.sums.any():
        read = f"{total.tokens_matched} of {total.tokens_seen} generated tokens were found on the pages"
        end_job(
            session, job, JobState.FAILED, error=f"no head ever looked at the word it read: every score is 0 ({read})"
        )
        return
    means, wish, kind = total.means(), promote_of(job), job.map_kind
    stability = total.stability(job.num_kv_heads)
    provenance = Provenance(
        model=job.model,
        revision=job.revision,
        architecture=job.architecture,
        kind=kind,
        dataset=job.dataset,
        dataset_checksum=job.dataset_checksum,
        pages=total.pages,
        hits=total.hits,
        tokens_seen=total.tokens_seen,
        tokens_matched=total.tokens_matched,
        halves_top5pct_overlap=None if stability is None else stability.top5pct_overlap,
        halves_spearman=None if stability is None else stability.spearman,
        rule=job.rule,
        seed=job.seed,
        max_new_tokens=job.max_new_tokens,
        job_id=job.id,
    )
    add_map(
        session,
        provenance,
        HeadScores(means, job.num_kv_heads),
        raw=means,
        standard_errors=total.standard_errors(),
        promote=nobody_chose(session, job.model) if wish == "auto" and kind == VISUAL else wish,
        by=f"job {job.id}",
    )
    drop_results(session, job.id)
    end_job(session, job, JobState.SUCCEEDED)


def wants_more(job: Job, total: PageSums) -> bool:
    """Whether a job with `pages: "auto"` goes on: its halves agree too little, and it may read more pages."""
    if job.stable_overlap is None or job.max_pages is None or job.pages >= job.max_pages:
        return False
    stability = total.stability(job.num_kv_heads)
    return stability is None or stability.top5pct_overlap < job.stable_overlap


def next_pages(job: Job) -> int:
    """Return a job's pages including its next round, which adds half as many, at least a shard, up to its maximum."""
    more = job.pages + max(job.pages // 2, job.shard_pages)
    return more if job.max_pages is None else min(more, job.max_pages)
