"""How each field of a client is treated: served, ignored, accepted at its default only, or refused.

A body's class is the only table of its fields. A field with a plain type is served, and the others are marked with
`Ignored`, `Only` or `Refused`. Validation, the OpenAPI document and the table in docs/serving.md are made from it. The
rule: a field that changes nothing is accepted, and bookkeeping is ignored. A field that would change the answer is
served, or refused by its name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
)
from pydantic.fields import FieldInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from headmap.http.costs import MAX_SHOWN
from headmap.http.request_body import MAX_TOKENS as MAX_TOKENS
from headmap.http.request_body import Body as Body

MAX_SEED = 2**63 - 1
MAX_TOP = 20
MAX_LAYERS = 9_999
MAX_STOPS = 16

Fate = Literal["served", "ignored", "default only", "refused"]


class Marked:
    """Base of the marks of fields that are not served. A marked field accepts any type."""

    fate: Fate

    def describe(self) -> JsonSchemaValue:
        """The field's JSON schema."""
        raise NotImplementedError

    def check(self, value: Any) -> Any:
        """Raises PydanticCustomError for a value that is not accepted. It is never called with null."""
        return None

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.check)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return self.describe()


class Ignored(Marked):
    """Bookkeeping: any value is accepted, and no value changes the answer."""

    fate = "ignored"

    def describe(self) -> JsonSchemaValue:
        return {"description": "accepted, and ignored: it does not change the answer"}


class Only(Marked):
    """Not served: accepted only if the value asks for nothing special."""

    fate = "default only"

    def __init__(self, *values: Any) -> None:
        self.values = values

    def check(self, value: Any) -> Any:
        if not any(_equal(value, one) for one in self.values):
            raise PydanticCustomError("not_served", "not served; only {told} is accepted", {"told": self.told})
        return None

    @property
    def told(self) -> str:
        return " or ".join(map(json.dumps, self.values))

    def describe(self) -> JsonSchemaValue:
        return {"enum": list(self.values), "description": "not served: only values that change nothing are accepted"}


class Refused(Marked):
    """Refused by name for any value; null means absent."""

    fate = "refused"

    def check(self, value: Any) -> Any:
        raise PydanticCustomError("not_served", "not served")

    def describe(self) -> JsonSchemaValue:
        return {"type": "null", "description": "not served"}


def _equal(value: Any, other: Any) -> bool:
    """0 is 0.0, but true is not 1."""
    return isinstance(value, bool) == isinstance(other, bool) and bool(value == other)


Nothing = Annotated[Any, Ignored()]
NotServed = Annotated[Any, Refused()]


class _FirstFault:
    """pydantic's FailFast, which older Pythons take for no part of a union: it has no hash."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return {**handler(source), "fail_fast": True}


T = TypeVar("T")
Items = Annotated[list[T], _FirstFault()]
"""A list of a body. One wrong item is told: an error for each of a million would take gigabytes."""


class LooseBody(Body):
    """A message or a part of one: `unknown_fields` tells of the first fields that nobody knows."""

    model_config = ConfigDict(extra="allow")


def unknown_fields(value: object, path: str = "") -> Iterator[str]:
    """The paths of unknown fields in a body, at most MAX_ERRORS of each object."""
    if isinstance(value, BaseModel):
        for name in value.model_extra or ():
            yield f"{path}{name[:MAX_SHOWN]}"
        for name in value.model_fields_set & type(value).model_fields.keys():
            yield from unknown_fields(getattr(value, name, None), f"{path}{name}.")
    elif isinstance(value, list) and value and isinstance(value[0], BaseModel):
        for index, one in enumerate(value):
            yield from unknown_fields(one, f"{path}{index}.")


def mark_of(field: FieldInfo) -> Marked | None:
    """The mark of a field that is not served."""
    return next((one for one in field.metadata if isinstance(one, Marked)), None)


def kinds(member: str, *names: str, default: Callable[[dict[str, Any]], str | None] | None = None) -> Discriminator:
    """Chooses the branch of a union by `member` of the object; the branch of "x" is tagged "<x>".

    In an error's place, tags in angle brackets cannot be mistaken for fields. `default` chooses for objects without the
    member.
    """

    def tag(value: Any) -> str | None:
        if isinstance(value, BaseModel):  # when it is written
            name = getattr(value, member, None)
        elif isinstance(value, dict):
            name = value.get(member)
            if name is None and default is not None:
                name = default(value)
        else:
            return None
        return f"<{name}>" if name in names else None

    return Discriminator(
        tag,
        custom_error_type=f"unknown_{member}",
        custom_error_message="must be " + " or ".join(names),
    )


def text_or_list(value: Any) -> str:
    """The tag of the branch: for a text, or for a list."""
    return "<list>" if isinstance(value, list) else "<text>"
