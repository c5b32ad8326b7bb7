"""What all request bodies share: unknown fields are refused by name, types are strict, numbers are bounded."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

MAX_TOKENS = 1_000_000
MAX_SEED = 2**63 - 1
MAX_TOP = 20
MAX_LAYERS = 9_999


class Strict(BaseModel):
    """A request body: no unknown fields, no conversions."""

    model_config = ConfigDict(extra="forbid", strict=True)
