"""Add up the shards of a job into its map: once, in shard order, so that the map is the same whoever did what when."""

from __future__ import annotations

import json

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from headmap.head_scores import HeadScores
from headmap.jobs.work import Floats
from headmap.registry.jobs import end_job
from headmap.registry.repository import Provenance, add_map
from headmap.registry.tables import Job, JobState, Shard


def fold(session: Session, job: Job) -> None:
    """File the map of a locked, running job all of whose shards are done, and end the job.

    Runs in the transaction of the last shard's result. The job's lock and state, and the unique `job_id` of maps, let
    it happen once. A job without a single hit fails: a map of zeros says nothing.
    """
    shape = (job.num_layers, job.num_heads)
    sums, squares = np.zeros(shape), np.zeros(shape)
    seen = matched = hits = 0
    for shard in session.scalars(select(Shard).where(Shard.job_id == job.id).order_by(Shard.number)):
        sums = sums + _load(shard.sums)
        squares = squares + _load(shard.squares)
        seen += shard.tokens_seen or 0
        matched += shard.tokens_matched or 0
        hits += shard.hits or 0
    if not (np.isfinite(sums).all() and np.isfinite(squares).all() and (sums >= 0).all()):
        end_job(session, job, JobState.FAILED, error="the scores are not finite numbers >= 0")
        return
    if not sums.any():
        read = f"{matched} of {seen} generated tokens were found on the pages"
        end_job(
            session, job, JobState.FAILED, error=f"no head ever looked at the word it read: every score is 0 ({read})"
        )
        return
    means = sums / job.pages
    scores = HeadScores(means, job.num_kv_heads)
    provenance = Provenance(
        model=job.model,
        revision=job.revision,
        architecture=job.architecture,
        dataset=job.dataset,
        pages=job.pages,
        hits=hits,
        tokens_seen=seen,
        tokens_matched=matched,
        rule=job.rule,
        seed=job.seed,
        max_new_tokens=job.max_new_tokens,
        job_id=job.id,
    )
    errors = standard_errors(sums, squares, job.pages)
    add_map(session, provenance, scores, raw=means, standard_errors=errors, move_default=True)
    end_job(session, job, JobState.SUCCEEDED)


def standard_errors(sums: Floats, squares: Floats, pages: int) -> Floats:
    """Standard errors of the mean page scores, in units of the normalised map: (num_layers, num_heads) float64.

    The map's own normaliser is taken as given. One page tells nothing about spread: 0.
    """
    if pages < 2:
        return np.zeros_like(sums)
    means = sums / pages
    variance = np.maximum(squares / pages - means**2, 0) * pages / (pages - 1)
    return np.sqrt(variance / pages) / means.sum()


def _load(text: str | None) -> Floats:
    return np.array(json.loads(text or "0"), dtype=np.float64)
