"""The caller may not do that: 401 and 403."""

from __future__ import annotations

from headmap.errors.base import HeadmapError


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
