"""The option `--select`: selectors by name, or as JSON objects of their numbers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.common import fail

if TYPE_CHECKING:
    from headmap.kvcache.select import Select

_HELP = "What selects the tokens: snapkv, last-query, mixkv, or JSON as in kv.select. Repeat it to compare several."
Selectors = Annotated[list[str] | None, typer.Option("--select", help=f"{_HELP} [default: mixkv]")]
SelectorsOfMethods = Annotated[list[str] | None, typer.Option("--select", help=f"{_HELP} [default: snapkv]")]
"""For a comparison of methods, which then differ from SnapKV in budgets alone."""


def parse_selector(text: str) -> Select:
    """The selector that `text` names or describes; ends the command with 2 where there is none, naming the field."""
    from pydantic import ValidationError

    from headmap.errors import InvalidParameter
    from headmap.evaluation.selectors import check_selector
    from headmap.http.invalid import invalid_parameter
    from headmap.http.kv_body import SelectBody

    try:
        numbers = json.loads(text) if text.lstrip().startswith("{") else None
    except ValueError:
        fail(f"--select: not valid JSON, got {text!r}", code=2)
    try:
        return check_selector(text if numbers is None else SelectBody.model_validate(numbers).asked(), "--select")
    except ValidationError as error:
        fail(f"--select.{invalid_parameter(error.errors(), numbers).detail}", code=2)
    except InvalidParameter as error:
        fail(error.detail, code=2)
