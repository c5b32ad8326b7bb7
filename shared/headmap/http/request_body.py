"""The base of request bodies that clients of other servers send, too. It knows pydantic alone."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, model_validator
from pydantic.fields import FieldInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

MAX_TOKENS = 1_000_000


def whole(value: object) -> object:
    """JSON knows one kind of number: 17.0 is the integer 17. Strings and booleans are none."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


class Body(BaseModel):
    """A request body or a part of one: null means absent, and 17.0 is 17. Unknown fields are refused by name."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        known = {field.alias or name: field for name, field in cls.model_fields.items()}
        return {
            name: whole(one) if name in known and _is_integer(known[name]) else one
            for name, one in value.items()
            if one is not None or name not in known
        }

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
    """`schema` and null."""
    if not schema.keys() & {"type", "$ref", "anyOf", "oneOf", "allOf", "enum", "const"}:
        return schema
    if schema.get("type") == "null" or {"type": "null"} in schema.get("anyOf", ()):
        return schema
    if "enum" in schema and "type" not in schema:
        return {**schema, "enum": [*schema["enum"], None]}
    about: dict[str, Any] = {name: schema[name] for name in ("title", "description", "default") if name in schema}
    return {**about, "anyOf": [schema, {"type": "null"}]}
