"""What the request names is not there: 404."""

from __future__ import annotations

from headmap.errors.base import HeadmapError


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
