"""HEADMAP_* variables as people write them: blank means unset, lists are JSON or commas, a fault is one line.

Where HEADMAP_NAME holds a secret, HEADMAP_NAME_FILE may name a file that holds it instead.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource

from headmap.errors import shown

PREFIX = "HEADMAP_"

# Of docker-compose.yml alone
_OTHERS = frozenset(
    {"HEADMAP_ADDRESS", "HEADMAP_GATEWAY_PROXIES", "HEADMAP_METRICS_KEY", "HEADMAP_PORT", "HEADMAP_TAG"}
)
_OF_THE_COMMAND_LINE = frozenset({"HEADMAP_URL", "HEADMAP_KEY", "HEADMAP_KEY_FILE"})
_IN_FILE = "_FILE"
# As a shell, Compose and Kubernetes leave a name that they could not fill in
_UNEXPANDED = re.compile(r"\$\{\w[^}]*\}|\$\(\w+\)|^\$\w+$")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Environment(EnvSettingsSource):
    """The environment, without blank variables and white space around values; `in_files` names what a file may hold.

    Raises SettingsError, whose cause is a ValueError with the fault, where such a file cannot be read, is empty, or
    stands beside the value itself.
    """

    def __init__(self, settings: type[BaseSettings], in_files: Collection[str]) -> None:
        super().__init__(settings)
        self._in_files = in_files

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        value, key, is_complex = super().get_field_value(field, field_name)
        value = value.strip() or None if isinstance(value, str) else value
        variable = f"{PREFIX}{field_name.upper()}"
        path = self.env_vars.get(f"{variable}{_IN_FILE}".lower())  # its names are in lower case
        if field_name in self._in_files and path and not is_blank(path):
            if value is not None:
                raise ValueError(f"{variable} and {variable}{_IN_FILE} are both set; take one of them away")
            value = _content(f"{variable}{_IN_FILE}", path)
        return value, key, is_complex


def items_of(text: str) -> list[Any]:
    """The items of a JSON list, or of a list by commas, without the white space around each. Raises ValueError."""
    if not text.lstrip().startswith("["):
        return [item.strip() for item in text.split(",")]
    try:
        items: list[Any] = json.loads(text)
    except ValueError as error:
        raise ValueError("begins like a JSON list but is not one") from error
    return items


def is_blank(item: object) -> bool:
    return isinstance(item, str) and not item.strip()


def check_secret(value: str) -> str:
    """`value`, if it can be a secret. Raises ValueError for one that was never filled in; the error hides the value."""
    if _UNEXPANDED.search(value):
        raise ValueError("holds the name of a variable, as ${NAME}, that nothing has filled in")
    if _CONTROL.search(value):
        raise ValueError("holds a line break or another control character")
    return value


def check_url(url: str, schemes: str) -> str:
    """`url`, if it can be read and its scheme matches the pattern `schemes`. Raises ValueError that hides the value."""
    check_secret(url)
    try:
        parts = urlsplit(url)
        readable = parts.port is None or parts.port > 0
    except ValueError:  # its words may hold a piece of the password
        readable = False
    if not readable or re.fullmatch(schemes, parts.scheme) is None or not url.startswith(f"{parts.scheme}://"):
        raise ValueError("cannot be read as a URL of that kind; percent-encode reserved characters in a password")
    return url


def faults(error: ValidationError, secret: Collection[str]) -> Iterator[str]:
    """A line for each fault: the variable, what is wrong, and the value unless the setting is among `secret`."""
    for one in error.errors(include_url=False):
        name, *item = one["loc"] or ("",)
        reason = re.sub("^Value error, ", "", one["msg"])
        place = f" item {int(item[0]) + 1}:" if item else ""
        value = "" if name in secret else f", got {shown(one['input'])}"
        yield f"{PREFIX}{str(name).upper()}:{place} {reason[:1].lower()}{reason[1:]}{value}"


def blank_variables(variables: Mapping[str, str], settings: Iterable[str]) -> Iterator[str]:
    """The names of settings whose variable exists and is blank, such as a secret that was never filled in."""
    blank = {variable.upper() for variable, value in variables.items() if not value.strip()}
    yield from (name for name in settings if f"{PREFIX}{name.upper()}" in blank)


def unknown_variables(variables: Iterable[str], settings: Iterable[str]) -> Iterator[str]:
    """A line for each variable that has our prefix and sets nothing, with the nearest one that does."""
    known = [name.upper() for name in settings]
    for variable in sorted(variables):
        name = variable.upper()
        if not name.startswith(PREFIX) or name in _OTHERS | _OF_THE_COMMAND_LINE or name.removeprefix(PREFIX) in known:
            continue
        near = get_close_matches(name.removeprefix(PREFIX), known, n=1)
        yield f"{variable} is not a setting" + (f"; the nearest is {PREFIX}{near[0]}" if near else "")


def _content(variable: str, path: str) -> str:
    try:
        text = Path(path).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ValueError(f"{variable}: cannot read {path}: {reason}") from error
    if is_blank(text):
        raise ValueError(f"{variable}: {path} is empty")
    return text
