"""The base class of request bodies. Clients of other servers send such bodies too. It imports no model code."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, model_validator
from pydantic.fields import FieldInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from headmap.http.costs import MAX_ERRORS
from headmap.json_numbers import whole

MAX_TOKENS = 1_000_000


class Body(BaseModel):
    """A request body or a part of one: null means absent, and 17.0 is 17. Unknown fields are refused by name."""

    model_config = ConfigDict(extra="forbid", strict=True)

    _known: ClassVar[Mapping[str, bool]] = {}
    """Each field by the name that clients use, and whether it is an integer."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        cls._known = {field.alias or name: _is_integer(field) for name, field in cls.model_fields.items()}

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        known = cls._known
        given = {
            name: whole(one) if known[name] else one for name, one in value.items() if name in known and one is not None
        }
        # A few of many wrong fields are enough for an error.
        return given | dict(islice((item for item in value.items() if item[0] not in known), MAX_ERRORS))

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        described = handler(schema)
        own = handler.resolve_ref_schema(described)
        required = own.get("required", ())
        for name, one in own.get("properties", {}).items():
            if name not in required:
                own["properties"][name] = _nullable(one)
        return described


def _is_integer(field: FieldInfo) -> bool:
    return field.annotation is int or int in get_args(field.annotation)


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    """Let `schema` also accept null."""
    if not schema.keys() & {"type", "$ref", "anyOf", "oneOf", "allOf", "enum", "const"}:
        return schema
    if schema.get("type") == "null" or {"type": "null"} in schema.get("anyOf", ()):
        return schema
    if "enum" in schema and "type" not in schema:
        return {**schema, "enum": [*schema["enum"], None]}
    about: dict[str, Any] = {name: schema[name] for name in ("title", "description", "default") if name in schema}
    return {**about, "anyOf": [schema, {"type": "null"}]}
