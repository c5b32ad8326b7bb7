"""The request does not go with the state of what it names: 409, and 412 where it said what state it expects."""

from __future__ import annotations

from headmap.errors.base import HeadmapError


class Conflict(HeadmapError):
    code, status, title = "conflict", 409, "Conflict"


class JobEnded(Conflict):
    code, title = "job_ended", "Job has ended"


class JobNotSucceeded(Conflict):
    """The job has no result: it has not ended, or it failed or was cancelled."""

    code, title = "job_not_succeeded", "Job has not succeeded"


class NothingRecommended(Conflict):
    """No point of the evaluation loses less than its margin with 95 % confidence."""

    code, title = "nothing_recommended", "Nothing recommended"


class NoMapForModel(Conflict):
    code, title = "no_map_for_model", "No head map for this model"


class MapMismatch(Conflict):
    code, title = "map_mismatch", "Map does not fit the model"


class IdempotencyConflict(Conflict):
    code, title = "idempotency_conflict", "Idempotency key used with another request"


class KeyNameTaken(Conflict):
    code, title = "key_name_taken", "API key name in use"


class DatasetExists(Conflict):
    code, title = "dataset_exists", "Dataset exists"


class DatasetInUse(Conflict):
    code, title = "dataset_in_use", "Dataset in use"


class DatasetBuiltIn(Conflict):
    code, title = "dataset_built_in", "Dataset is built in"


class MapInUse(Conflict):
    code, title = "map_in_use", "Map in use"


class AliasMoved(HeadmapError):
    """Somebody moved the alias since the caller looked (If-Match, RFC 9110, section 13.1.1)."""

    code, status, title = "alias_moved", 412, "Alias has moved"


class PolicyChanged(HeadmapError):
    """The policy is not as the caller last saw it (If-Match, If-None-Match: RFC 9110, sections 13.1.1, 13.1.2)."""

    code, status, title = "policy_changed", 412, "Policy has changed"
