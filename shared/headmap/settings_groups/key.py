"""An API key of the settings."""

from __future__ import annotations

from typing import Any, Self

from pydantic import GetCoreSchemaHandler, SecretStr
from pydantic_core import CoreSchema, core_schema

from headmap.keys import EVERYTHING, Scope, scopes_of


class SettingsKey(SecretStr):
    """A key with its scopes, given as text, which may do everything, or as an object of `key` and `scopes`."""

    def __init__(self, key: str, scopes: frozenset[Scope] = EVERYTHING) -> None:
        super().__init__(key)
        self.scopes = scopes

    @classmethod
    def _of(cls, value: object) -> Self:
        """Raises ValueError, which does not show the value."""
        if isinstance(value, cls):
            return value
        if isinstance(value, str | SecretStr):
            return cls(value if isinstance(value, str) else value.get_secret_value())
        if not isinstance(value, dict) or set(value) != {"key", "scopes"}:
            raise ValueError("must be a text, or an object of key and scopes")
        key, scopes = value["key"], value["scopes"]
        if not isinstance(key, str) or not isinstance(scopes, list):
            raise ValueError("must be an object whose key is a text and whose scopes are a list")
        try:
            return cls(key, scopes_of(scopes))
        except ValueError:  # its words hold what stands in the place of a scope, which may be a key
            raise ValueError(f"must be an object whose scopes are some of {', '.join(Scope)}") from None

    @classmethod
    def __get_pydantic_core_schema__(cls, source: type[Any], handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(cls._of)
