"""The root of the tree of errors, and how their messages show a value."""

from __future__ import annotations

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
