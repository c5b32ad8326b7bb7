"""Turn pydantic's errors about a request into one API error that names the fields and the values sent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from headmap.errors import InvalidParameter
from headmap.http.costs import MAX_ERRORS, MAX_SHOWN, shown

_PLACES = ("body", "query", "path", "header", "cookie")


def invalid_parameter(errors: Iterable[Mapping[str, Any]], body: object) -> InvalidParameter:
    """Make one error from all pydantic `errors` that FastAPI reports. Its `param` is the first field.

    `body` is the body sent. Pydantic reports one error per type for a field of several types; they become one.
    """
    found: dict[str, tuple[list[str], object]] = {}
    for error in errors:
        field = "body" if error["type"] == "json_invalid" else _field(error, body)
        if field not in found and len(found) == MAX_ERRORS:
            break
        reason = _reason(error, field)
        value = error.get("input")
        if error["type"].startswith("unknown_") and isinstance(value, Mapping):  # the object fits none of several kinds
            member = error["type"].removeprefix("unknown_")
            field = f"{field}.{member}"
            reason, value = (reason, value[member]) if member in value else ("missing", None)
        reasons, _ = found.setdefault(field, ([], value))
        if reason not in reasons:
            reasons.append(reason)
    parts = (f"{field}: {' or '.join(reasons)}{_got(reasons, value)}" for field, (reasons, value) in found.items())
    return InvalidParameter("; ".join(parts), param=next(iter(found), None))


_TOLD = {
    "missing": "missing",
    "extra_forbidden": "unknown field",
    "json_invalid": "not valid JSON",
}
_OBJECT = frozenset({"model_type", "model_attributes_type", "dict_type"})
_NO_BODY = "must be a JSON object, sent as application/json"


def _reason(error: Mapping[str, Any], field: str) -> str:
    if error["type"] in _OBJECT:
        return _NO_BODY if field == "body" else "must be an object"
    message = str(error["msg"])
    return _TOLD.get(error["type"], message[:1].lower() + message[1:])


def _got(reasons: Sequence[str], value: object) -> str:
    """Describe the wrong value, unless the reasons are clear without it."""
    return "" if set(reasons) <= {*_TOLD.values(), _NO_BODY} else f", got {shown(value)}"


def _field(error: Mapping[str, Any], body: object) -> str:
    """Return the path of a field in the body sent. Pydantic's own path also has union branches, unknown to clients."""
    place, *path = error["loc"] or ("body",)
    if place not in _PLACES:
        place, path = "body", [place, *path]
    if place != "body":
        return ".".join(map(_name, path)) or str(place)
    names, value = [], body
    for index, part in enumerate(path):
        try:
            value = _member(value, part)
        except LookupError:
            if error["type"] != "missing" or index < len(path) - 1:
                continue
        names.append(_name(part))
    return ".".join(names) or "body"


def _name(part: object) -> str:
    name = str(part)
    return name if len(name) <= MAX_SHOWN else f"{name[: MAX_SHOWN - 3]}..."


def _member(value: object, part: object) -> object:
    """Return the value under a key or at an index. Raises LookupError."""
    if isinstance(value, Mapping):
        return value[part]
    if isinstance(value, list) and isinstance(part, int):
        return value[part]
    raise LookupError(part)
