"""Selectors in plain data, as requests and results give them: by name, or by their numbers where they have no name.

Kept results name a selector as they did when they were made: a name in `SELECTORS` never gets another meaning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from headmap.errors import InvalidParameter
from headmap.kvcache.select import SELECTORS, SNAPKV, Select, get_selector, selector_name


def check_selector(value: str | Select, param: str) -> Select:
    """Return the selector that a caller asks for, by name or by its numbers.

    `param`: the field that it stands in. Raises InvalidParameter, naming the field and its value.
    """
    try:
        found = get_selector(value) if isinstance(value, str) else value
        found.check()
    except InvalidParameter as error:
        named = (error.param or "").replace("kv.select", param, 1)
        raise InvalidParameter(error.detail.replace("kv.select", param, 1), param=named) from error
    return found


def selector_to_json(select: Select) -> str | dict[str, Any]:
    """Return the name of a selector, or its numbers if it has none. `selector_from_json` reads both back."""
    return selector_name(select) or {name: value for name, value in asdict(select).items() if value is not None}


def selector_from_json(value: str | Mapping[str, Any] | None) -> Select:
    """Read a selector. None stands for `snapkv`, which chose where a result names no selector."""
    if value is None:
        return SNAPKV
    return get_selector(value) if isinstance(value, str) else Select(**value)


def selector_label(select: Select) -> str:
    """Return a selector's name, or the numbers in which it differs from `snapkv`, such as `window=8,pool=7`."""
    usual = asdict(SNAPKV)
    numbers = (f"{name}={value}" for name, value in asdict(select).items() if value != usual[name])
    return selector_name(select) or ",".join(numbers)


def selector_order(select: Select) -> tuple[int, str]:
    """A key to sort selectors with: as in `SELECTORS`, those without a name last."""
    name = selector_name(select)
    return (len(SELECTORS) if name is None else list(SELECTORS).index(name)), selector_label(select)
