"""Every error a caller can cause or must know of: one tree, each leaf with a stable code and an HTTP status.

    HeadmapError 500              base
    ├── BadRequest 422            bad_requests
    ├── PayloadTooLarge 413       bad_requests
    ├── MalformedRequest 400      bad_requests, with HeadTooLarge 431
    ├── RequestTimeout 408        bad_requests
    ├── NotFound 404              not_found
    ├── Conflict 409              conflicts
    ├── AliasMoved 412            conflicts
    ├── PolicyChanged 412         conflicts
    ├── Unauthorized 401          access
    ├── Forbidden 403             access
    ├── CrossSite 403             access
    ├── HubRefused 403            access
    ├── TooManyRequests 429       too_many, with retry_after
    └── Unavailable 503           unavailable

On the right is the file of each branch, which has its leaves. Some errors are of this host alone (`not_here`).

Services turn them into problem documents (RFC 9457) in one handler.
"""

from collections.abc import Iterator

from headmap.errors.access import CrossSite, Forbidden, HubRefused, Unauthorized
from headmap.errors.bad_requests import (
    BadRequest,
    BudgetTooSmall,
    DatasetTooLarge,
    EmptyPrompt,
    HeadTooLarge,
    ImageTooLarge,
    InvalidDataset,
    InvalidImage,
    InvalidParameter,
    InvalidScores,
    MalformedRequest,
    ModelNotUsable,
    PayloadTooLarge,
    PromptTooLong,
    RequestTimeout,
    RequestTooLarge,
    UnknownMethod,
    UnsupportedModel,
)
from headmap.errors.base import HeadmapError, shown
from headmap.errors.conflicts import (
    AliasMoved,
    Conflict,
    DatasetBuiltIn,
    DatasetExists,
    DatasetInUse,
    IdempotencyConflict,
    JobEnded,
    JobNotSucceeded,
    KeyNameTaken,
    MapInUse,
    MapMismatch,
    NoMapForModel,
    NothingRecommended,
    PolicyChanged,
)
from headmap.errors.not_found import (
    AliasNotFound,
    DatasetNotFound,
    HeadNotFound,
    JobNotFound,
    KeyNotFound,
    MapNotFound,
    ModelNotFound,
    NotFound,
    PageNotFound,
    PolicyNotFound,
    RepoNotFound,
    SessionNotFound,
)
from headmap.errors.too_many import BodiesTooLarge, QueueFull, RateLimited, TooManyJobs, TooManyRequests
from headmap.errors.unavailable import (
    ClusterUnavailable,
    DatasetUnavailable,
    DeviceFailed,
    DeviceNotFound,
    HubUnavailable,
    OutOfMemory,
    PackageMissing,
    RegistryBroken,
    RegistryUnavailable,
    ShuttingDown,
    TooManyConnections,
    Unavailable,
)

__all__ = [
    "AliasMoved",
    "AliasNotFound",
    "BadRequest",
    "BodiesTooLarge",
    "BudgetTooSmall",
    "ClusterUnavailable",
    "Conflict",
    "CrossSite",
    "DatasetBuiltIn",
    "DatasetExists",
    "DatasetInUse",
    "DatasetNotFound",
    "DatasetTooLarge",
    "DatasetUnavailable",
    "DeviceFailed",
    "DeviceNotFound",
    "EmptyPrompt",
    "Forbidden",
    "HeadNotFound",
    "HeadTooLarge",
    "HeadmapError",
    "HubRefused",
    "HubUnavailable",
    "IdempotencyConflict",
    "ImageTooLarge",
    "InvalidDataset",
    "InvalidImage",
    "InvalidParameter",
    "InvalidScores",
    "JobEnded",
    "JobNotFound",
    "JobNotSucceeded",
    "KeyNameTaken",
    "KeyNotFound",
    "MalformedRequest",
    "MapInUse",
    "MapMismatch",
    "MapNotFound",
    "ModelNotFound",
    "ModelNotUsable",
    "NoMapForModel",
    "NotFound",
    "NothingRecommended",
    "OutOfMemory",
    "PackageMissing",
    "PageNotFound",
    "PayloadTooLarge",
    "PolicyChanged",
    "PolicyNotFound",
    "PromptTooLong",
    "QueueFull",
    "RateLimited",
    "RegistryBroken",
    "RegistryUnavailable",
    "RepoNotFound",
    "RequestTimeout",
    "RequestTooLarge",
    "SessionNotFound",
    "ShuttingDown",
    "TooManyConnections",
    "TooManyJobs",
    "TooManyRequests",
    "Unauthorized",
    "Unavailable",
    "UnknownMethod",
    "UnsupportedModel",
    "error_of",
    "shown",
]


def error_of(code: object, detail: str) -> HeadmapError:
    """The error that a service told by its `code`; a HeadmapError itself for a code that is not known here."""
    return _KINDS.get(str(code), HeadmapError)(detail)


def _kinds(kind: type[HeadmapError]) -> Iterator[tuple[str, type[HeadmapError]]]:
    for one in kind.__subclasses__():
        yield from _kinds(one)
        if "code" in vars(one):
            yield one.code, one


_KINDS = dict(_kinds(HeadmapError))
