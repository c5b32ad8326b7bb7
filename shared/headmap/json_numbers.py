"""Numbers of JSON, which has one kind: 17.0 is the integer 17. Imports only pydantic."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator


def whole(value: object) -> object:
    """A float that is a whole number as an integer, all else unchanged. Strings and booleans are not numbers."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Integer = Annotated[int, BeforeValidator(whole)]
