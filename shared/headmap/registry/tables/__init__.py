"""The registry's tables, which read each other's keys: importing any of them imports all. Times are UTC."""

from headmap.registry.tables.base import Base, UtcDateTime
from headmap.registry.tables.datasets import Blob, Dataset, DatasetPack, DatasetPage
from headmap.registry.tables.evaluations import Evaluation
from headmap.registry.tables.jobs import EndedJobs, IdempotencyKey, Job, JobState, PageLook
from headmap.registry.tables.keys import ApiKey
from headmap.registry.tables.maps import Alias, AliasMove, DeletedMap, Map
from headmap.registry.tables.policies import Policy, PolicyVersion
from headmap.registry.tables.shards import FOLD, Shard, ShardState, StoredResult, Sweep
from headmap.registry.tables.workers import WorkerModel

__all__ = [
    "FOLD",
    "Alias",
    "AliasMove",
    "ApiKey",
    "Base",
    "Blob",
    "Dataset",
    "DatasetPack",
    "DatasetPage",
    "DeletedMap",
    "EndedJobs",
    "Evaluation",
    "IdempotencyKey",
    "Job",
    "JobState",
    "Map",
    "PageLook",
    "Policy",
    "PolicyVersion",
    "Shard",
    "ShardState",
    "StoredResult",
    "Sweep",
    "UtcDateTime",
    "WorkerModel",
]
