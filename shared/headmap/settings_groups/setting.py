"""How a setting is written."""

from __future__ import annotations

from typing import Any

from pydantic import Field


def setting(default: Any, description: str, *, change: str, unit: str | None = None, **bounds: Any) -> Any:
    """A setting. `description` can be read alone, `change` ends the sentence "Change it when", numbers have a `unit`.

    `bounds` go to pydantic's `Field`.
    """
    return Field(default, description=description, json_schema_extra={"unit": unit, "change": change}, **bounds)
