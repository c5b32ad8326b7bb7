"""Settings of the scoring API and its workers."""

from __future__ import annotations

from pydantic import BaseModel

from headmap.settings_groups.setting import setting


class Scoring(BaseModel):
    """The scoring API and workers"""

    max_dataset_bytes: int = setting(
        2**30,
        "largest uploaded dataset, packed and unpacked",
        unit="bytes",
        change="your pages take more, or the registry's disk is small",
        ge=1,
    )
    dataset_seconds: float = setting(
        900.0,
        "longest time to check and store an uploaded dataset",
        unit="seconds",
        change="large uploads time out",
        gt=0,
    )
    key_open_jobs: int = setting(
        100,
        "most jobs that one key may have open (all callers without a key count as one); further ones get 429",
        unit="jobs",
        change="one caller queues too much, or needs to queue more",
        ge=1,
    )
    key_open_pages: int = setting(
        200_000,
        "most pages that the open jobs of one key may have; further jobs get 429",
        unit="pages",
        change="one caller queues too much, or needs to queue more",
        ge=1,
    )
    max_open_jobs: int = setting(
        1000,
        "most jobs that all callers may have open; further ones get 429",
        unit="jobs",
        change="the queue is longer than anybody waits",
        ge=1,
    )
    max_open_pages: int = setting(
        1_000_000,
        "most pages that all open jobs may have; further jobs get 429",
        unit="pages",
        change="the queue is longer than anybody waits",
        ge=1,
    )
    max_event_streams: int = setting(
        1000,
        "most clients that follow jobs at a time, in each process; further ones get 429",
        unit="clients",
        change="many people watch jobs",
        ge=1,
    )
    synthdog: str = setting(
        "nnethercott/synthdog-en-detection",
        "source of the dataset `synthdog-en`: a Hub id, or a folder of parquet files",
        change="workers have no network",
    )
    shard_pages: int = setting(
        8, "pages in each shard of a scoring job", unit="pages", change="a page takes minutes (fewer)", ge=1
    )
    shard_questions: int = setting(
        32, "questions in each shard of an evaluation", unit="questions", change="answers take minutes (fewer)", ge=1
    )
    lease_seconds: float = setting(
        120.0,
        "time until a shard that its worker no longer renews goes to another worker",
        unit="seconds",
        change="workers are often killed, or stall for longer than that",
        gt=0,
    )
    sweep_seconds: float = setting(
        5.0,
        "time between two searches of a worker for lost shards",
        unit="seconds",
        change="many workers read the registry too often",
        gt=0,
    )
    keep_jobs_days: float = setting(
        0.0,
        "age at which ended jobs are deleted, except those with a map or an evaluation's result; 0 keeps all",
        unit="days",
        change="the list of jobs, or the registry, grows too long",
        ge=0,
        le=36_500,
    )
    max_attempts: int = setting(
        5, "attempts at a shard before its job fails", unit="attempts", change="hosts fail often", ge=1
    )
    retry_seconds: float = setting(
        2.0,
        "wait before a shard's second attempt, doubled before each further one",
        unit="seconds",
        change="what fails takes longer to recover",
        ge=0,
    )
    shard_time_limit: int = setting(
        3600,
        "time after which the process that scores a shard is killed; its attempt is asked to end at nine tenths of it",
        unit="seconds",
        change="a shard of a large model takes longer",
        ge=2,
    )
    scoring_batch: int = setting(
        4,
        "pages that a worker reads together when the model is large or on a GPU",
        unit="pages",
        change="the worker runs out of memory, or its GPU idles",
        ge=1,
    )
    model_turn_seconds: float = setting(
        120.0,
        "time for which a worker goes on with one model while shards of other models wait",
        unit="seconds",
        change="models load slowly (longer), or short jobs wait behind long ones (shorter)",
        gt=0,
    )
    model_idle_seconds: float = setting(
        300.0,
        "time without a shard after which a worker lets go of its model and the model's memory",
        unit="seconds",
        change="loading the model takes minutes (longer), or others need the memory (shorter)",
        gt=0,
    )
