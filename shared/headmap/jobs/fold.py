"""Once all shards of a job are done, add their sums in shard order and make the map, or add more pages.

The decision depends only on the shards' sums, and happens in the transaction of the last shard's result. If a worker is
killed before the commit, the next worker of that shard decides the same.
"""

from __future__ import annotations

import json

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from headmap.head_scores import HeadScores
from headmap.page_sums import Floats, PageSums
from headmap.registry.aliases import nobody_chose
from headmap.registry.jobs import add_shards, end_job, promote_of
from headmap.registry.maps import Provenance, add_map
from headmap.registry.tables import Job, JobState, Shard


def settle(session: Session, job: Job) -> None:
    """End a locked, running job whose shards are all done with its map, or give it the next round of pages.

    Runs in the transaction of the last shard's result. The job's lock and state and the unique `job_id` of maps ensure
    that this happens once. A job without any hit fails, because a map of zeros has no information.
    """
    total = _add_up(session, job)
    if not total.sound():
        end_job(session, job, JobState.FAILED, error="the scores are not finite numbers >= 0")
        return
    if wants_more(job, total):
        size = session.scalars(select(Shard.count).where(Shard.job_id == job.id, Shard.number == 0)).one()
        add_shards(session, job, next_pages(job, size), shard_pages=size)
        return
    if not total.sums.any():
        read = f"{total.tokens_matched} of {total.tokens_seen} generated tokens were found on the pages"
        end_job(
            session, job, JobState.FAILED, error=f"no head ever looked at the word it read: every score is 0 ({read})"
        )
        return
    means, wish = total.means(), promote_of(job)
    stability = total.stability(job.num_kv_heads)
    provenance = Provenance(
        model=job.model,
        revision=job.revision,
        architecture=job.architecture,
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
        promote=nobody_chose(session, job.model) if wish == "auto" else wish,
        by=f"job {job.id}",
    )
    end_job(session, job, JobState.SUCCEEDED)


def wants_more(job: Job, total: PageSums) -> bool:
    """Whether a job with `pages: "auto"` goes on: its halves agree too little, and it may read more pages."""
    if job.stable_overlap is None or job.max_pages is None or job.pages >= job.max_pages:
        return False
    stability = total.stability(job.num_kv_heads)
    return stability is None or stability.top5pct_overlap < job.stable_overlap


def next_pages(job: Job, shard_pages: int) -> int:
    """Return a job's pages including its next round, which adds half as many, at least a shard, up to its maximum."""
    more = job.pages + max(job.pages // 2, shard_pages)
    return more if job.max_pages is None else min(more, job.max_pages)


def _add_up(session: Session, job: Job) -> PageSums:
    total = PageSums.none(job.num_layers, job.num_heads)
    for shard in session.scalars(select(Shard).where(Shard.job_id == job.id).order_by(Shard.number)):
        total += PageSums(
            shard.count,
            shard.tokens_seen or 0,
            shard.tokens_matched or 0,
            shard.hits or 0,
            *(_load(text) for text in (shard.sums, shard.squares, shard.products)),
        )
    return total


def _load(text: str | None) -> Floats:
    return np.array(json.loads(text or "0"), dtype=np.float64)
