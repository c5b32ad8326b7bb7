"""Every error a caller can cause or must know of: one tree, each leaf with a stable code and an HTTP status.

    HeadmapError
    ├── BadRequest 422        InvalidParameter, InvalidImage, EmptyPrompt, BudgetTooSmall, UnknownMethod,
    │                         PromptTooLong, RequestTooLarge, InvalidScores, InvalidDataset,
    │                         UnsupportedModel (ModelNotUsable)
    ├── NotFound 404          ModelNotFound, JobNotFound, MapNotFound, HeadNotFound, PageNotFound, DatasetNotFound,
    │                         SessionNotFound, KeyNotFound, AliasNotFound, PolicyNotFound, RepoNotFound
    ├── Conflict 409          JobEnded, JobNotSucceeded, NothingRecommended, NoMapForModel, IdempotencyConflict,
    │                         MapMismatch, KeyNameTaken, DatasetExists, DatasetInUse, DatasetBuiltIn, MapInUse
    ├── AliasMoved 412
    ├── PolicyChanged 412
    ├── PayloadTooLarge 413   ImageTooLarge, DatasetTooLarge
    ├── MalformedRequest 400  HeadTooLarge 431
    ├── RequestTimeout 408
    ├── Unauthorized 401
    ├── CrossSite 403
    ├── Forbidden 403
    ├── HubRefused 403
    ├── TooManyRequests 429   QueueFull, RateLimited, TooManyJobs, BodiesTooLarge; with retry_after
    └── Unavailable 503       RegistryUnavailable, RegistryBroken, DatasetUnavailable, ShuttingDown, OutOfMemory,
                              DeviceFailed, DeviceNotFound, PackageMissing, TooManyConnections, HubUnavailable,
                              ClusterUnavailable

Some are of this host alone (`not_here`): ModelNotFound, ModelNotUsable, DatasetUnavailable, OutOfMemory,
DeviceNotFound, PackageMissing.

Services turn them into problem documents (RFC 9457) in one handler.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

_MOST_CHARACTERS = 80


def shown(value: object) -> str:
    """Return the value at fault as a message shows it: in ASCII, cut to 80 characters, and never an error itself."""
    try:
        text = ascii(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits
        return type(value).__name__
    return text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 3]}..."


class HeadmapError(Exception):
    """An error with a stable `code`, an HTTP `status` and a `detail` that names the field and the value at fault."""

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"
    not_here: ClassVar[bool] = False
    """Whether another host may do what this one cannot. A worker hands its shard back for that host, uncounted."""

    def __init__(self, detail: str, *, param: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.param = param

    def problem(self) -> dict[str, object]:
        """The RFC 9457 document of this error."""
        document: dict[str, object] = {
            "type": "about:blank",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
        }
        if self.param is not None:
            document["param"] = self.param
        return document


class BadRequest(HeadmapError):
    code, status, title = "invalid_request", 422, "Invalid request"


class InvalidParameter(BadRequest):
    code, title = "invalid_parameter", "Invalid parameter"


class InvalidImage(BadRequest):
    code, title = "invalid_image", "Invalid image"


class EmptyPrompt(BadRequest):
    code, title = "empty_prompt", "Empty prompt"


class PromptTooLong(BadRequest):
    code, title = "prompt_too_long", "Prompt too long"


class BudgetTooSmall(BadRequest):
    code, title = "budget_too_small", "Budget too small"


class UnknownMethod(BadRequest):
    code, title = "unknown_method", "Unknown method"


class InvalidScores(BadRequest):
    code, title = "invalid_scores", "Invalid head scores"


class InvalidDataset(BadRequest):
    code, title = "invalid_dataset", "Invalid dataset"


class UnsupportedModel(BadRequest):
    code, title = "unsupported_model", "Unsupported model"


class ModelNotUsable(UnsupportedModel):
    """This host cannot run the model: files or packages are missing or broken, or the device is too small."""

    code, title, not_here = "model_not_usable", "Model not usable on this host", True


class RequestTooLarge(BadRequest):
    """The request's KV cache can never fit into the server's KV memory."""

    code, title = "request_too_large", "Request too large"


class NotFound(HeadmapError):
    code, status, title = "not_found", 404, "Not found"


class ModelNotFound(NotFound):
    code, title, not_here = "model_not_found", "Model not found", True


class JobNotFound(NotFound):
    code, title = "job_not_found", "Job not found"


class SessionNotFound(NotFound):
    code, title = "session_not_found", "Session not found"


class MapNotFound(NotFound):
    code, title = "map_not_found", "Map not found"


class DatasetNotFound(NotFound):
    code, title = "dataset_not_found", "Dataset not found"


class KeyNotFound(NotFound):
    code, title = "key_not_found", "API key not found"


class HeadNotFound(NotFound):
    code, title = "head_not_found", "Head not found"


class PageNotFound(NotFound):
    code, title = "page_not_found", "Page not found"


class AliasNotFound(NotFound):
    code, title = "alias_not_found", "Alias not found"


class PolicyNotFound(NotFound):
    code, title = "policy_not_found", "Policy not found"


class RepoNotFound(NotFound):
    """The Hub has no such repository or revision, hides it from this token, or there is no map in it."""

    code, title = "repo_not_found", "Repository not found"


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


class PayloadTooLarge(HeadmapError):
    code, status, title = "payload_too_large", 413, "Payload too large"


class ImageTooLarge(PayloadTooLarge):
    code, title = "image_too_large", "Image too large"


class DatasetTooLarge(PayloadTooLarge):
    code, title = "dataset_too_large", "Dataset too large"


class MalformedRequest(HeadmapError):
    """What arrived is not HTTP."""

    code, status, title = "malformed_request", 400, "Malformed request"


class HeadTooLarge(MalformedRequest):
    code, status, title = "head_too_large", 431, "Request head too large"


class RequestTimeout(HeadmapError):
    """The request arrives too slowly."""

    code, status, title = "request_timeout", 408, "Request timeout"


class Unauthorized(HeadmapError):
    code, status, title = "unauthorized", 401, "Unauthorized"


class Forbidden(HeadmapError):
    """The caller's API key lacks a scope."""

    code, status, title = "forbidden", 403, "Forbidden"


class CrossSite(HeadmapError):
    """A browser calls for another site's page, which is not allowed."""

    code, status, title = "cross_site", 403, "Call from another site's page"


class HubRefused(HeadmapError):
    """The Hub does not let this token do that."""

    code, status, title = "hub_refused", 403, "The Hub refused"


class TooManyRequests(HeadmapError):
    """Try again after `retry_after` seconds."""

    code, status, title = "too_many_requests", 429, "Too many requests"

    def __init__(self, detail: str, *, retry_after: int = 1, param: str | None = None) -> None:
        super().__init__(detail, param=param)
        self.retry_after = retry_after


class QueueFull(TooManyRequests):
    """The server takes no more requests at present."""

    code = "queue_full"


class RateLimited(TooManyRequests):
    """An API key exceeds its limits."""

    code = "rate_limited"


class TooManyJobs(TooManyRequests):
    """Jobs that have not ended are as many, or have as many pages, as there may be."""

    code = "too_many_jobs"

    def __init__(self, detail: str, *, retry_after: int = 60) -> None:
        super().__init__(detail, retry_after=retry_after)


class BodiesTooLarge(TooManyRequests):
    """The bodies and pictures of requests at work take as much as they may."""


class Unavailable(HeadmapError):
    code, status, title = "unavailable", 503, "Unavailable"


class TooManyConnections(Unavailable):
    """All connections that the server takes have a request at work."""

    code, title = "too_many_connections", "Too many connections"


class RegistryUnavailable(Unavailable):
    code, title = "registry_unavailable", "Registry unavailable"


class RegistryBroken(RegistryUnavailable):
    """The registry's file is damaged, or is not one of ours: waiting does not help."""

    title = "Registry broken"


class ClusterUnavailable(Unavailable):
    """What a client was told to call does not answer, or not as Headmap does."""

    code, title = "cluster_unavailable", "Cluster unavailable"


class DatasetUnavailable(Unavailable):
    """Files of a dataset are missing or damaged, or what holds them cannot be reached now."""

    code, title, not_here = "dataset_unavailable", "Dataset unavailable", True


class HubUnavailable(Unavailable):
    code, title = "hub_unavailable", "Hub unavailable"


class ShuttingDown(Unavailable):
    code, title = "shutting_down", "Shutting down"


class OutOfMemory(Unavailable):
    code, title, not_here = "out_of_memory", "Out of memory", True


class DeviceNotFound(Unavailable):
    """This host has no such device."""

    code, title, not_here = "device_not_found", "Device not found", True


class PackageMissing(Unavailable):
    """A Python package is not installed on this host."""

    code, title, not_here = "package_missing", "Package missing", True


class DeviceFailed(Unavailable):
    """This process can no longer use the device; it ends and is started again."""

    code, title = "device_failed", "Device failed"


def error_of(code: object, detail: str) -> HeadmapError:
    """The error that a service told by its `code`; a HeadmapError itself for a code that is not known here."""
    return _KINDS.get(str(code), HeadmapError)(detail)


def _kinds(kind: type[HeadmapError]) -> Iterator[tuple[str, type[HeadmapError]]]:
    for one in kind.__subclasses__():
        yield from _kinds(one)
        if "code" in vars(one):
            yield one.code, one


_KINDS = dict(_kinds(HeadmapError))
