"""Settings of every process: read once from HEADMAP_* variables, then frozen."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_origin

from pydantic import SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from headmap import settings_groups as groups
from headmap.environment import PREFIX, Environment, check_url, faults, is_blank, items_of, unknown_variables
from headmap.models import DEMO_MODEL as DEMO_MODEL

if TYPE_CHECKING:
    from sqlalchemy import URL

SECRET = frozenset({"api_keys", "database_url", "broker_url", "rate_limit_url"})
"""Settings whose values may hold a key or a password."""


class Settings(
    groups.EveryProcess,
    groups.HttpServices,
    groups.Models,
    groups.Requests,
    groups.Engine,
    groups.Pictures,
    groups.Scoring,
    BaseSettings,
):
    """What a deployment can choose. A list is given as `a,b` or as JSON; a variable that is blank counts as unset.

    Each group of settings is a base.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="ignore", enable_decoding=False, hide_input_in_errors=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _list(cls, value: object, info: ValidationInfo) -> object:
        name = str(info.field_name)
        if get_origin(cls.model_fields[name].annotation) is not tuple:
            return value
        items = items_of(value) if isinstance(value, str) else value
        if name == "api_keys" or not isinstance(items, list | tuple):
            return items
        return [item for item in items if not is_blank(item)]

    @field_validator("api_keys")
    @classmethod
    def _no_empty_key(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if any(is_blank(key.get_secret_value()) for key in value):
            raise ValueError("one of the keys is empty: it would let in whoever sends none")
        return value

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, value: str | None) -> str | None:
        return None if value is None else check_url(value, r"sqlite|postgres(ql(\+psycopg)?)?")

    @field_validator("broker_url")
    @classmethod
    def _readable_broker(cls, value: str | None) -> str | None:
        if value is not None:
            for one in value.split(";"):  # Celery takes several, to fall back on
                check_url(one, r".+")
        return value

    @field_validator("rate_limit_url")
    @classmethod
    def _known_counter(cls, value: str | None) -> str | None:
        return None if value is None else check_url(value, r"rediss?")

    @field_validator("log_level")
    @classmethod
    def _known_level(cls, value: str) -> str:
        if value.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
            raise ValueError("must be DEBUG, INFO, WARNING or ERROR")
        return value.upper()

    @field_validator("cuda_graphs", mode="before")
    @classmethod
    def _true_is_on(cls, value: object) -> object:
        return {"true": "on", "1": "on", "false": "off", "0": "off"}.get(str(value).lower(), value)

    @field_validator("device")
    @classmethod
    def _known_device(cls, value: str) -> str:
        if re.fullmatch(r"auto|cpu|cuda(:\d+)?", value) is None:
            raise ValueError("must be auto, cpu, cuda or cuda:N")
        return value

    @field_validator("guide_dir")
    @classmethod
    def _built(cls, value: Path | None) -> Path | None:
        if value is not None and not (value / "index.html").is_file():
            raise ValueError("holds no index.html; `make site` builds the site")
        return value

    @field_validator("data_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        try:
            return value.expanduser().absolute()
        except RuntimeError as error:  # ~nobody
            raise ValueError("names the home of no user") from error

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, Environment(settings_cls)

    @property
    def shard_seconds(self) -> float:
        """The softer limit: past it an attempt has failed, and its work is aborted at the next page."""
        return 0.9 * self.shard_time_limit

    @property
    def sql_url(self) -> URL:
        from sqlalchemy import URL, make_url  # not everything that has settings has a registry

        if self.database_url is not None:
            return make_url(self.database_url)
        return URL.create("sqlite", database=str(self.data_dir / "registry.sqlite3"))  # as text, a `?` would end it

    @property
    def celery_broker_url(self) -> str:
        return self.broker_url or "filesystem://"


def load_settings(**given: Any) -> Settings:
    """The settings of a process that starts, with those `given` before the environment's.

    Ends the process with status 2 where they are wrong. Faults, and variables that set nothing, are told on standard
    error, a line each.
    """
    for line in unknown_variables(os.environ, Settings.model_fields):
        print(f"headmap: {line}", file=sys.stderr)
    try:
        return Settings(**given)
    except ValidationError as error:
        for line in faults(error, SECRET):
            print(f"headmap: {line}", file=sys.stderr)
        raise SystemExit(2) from None
    except SettingsError as error:
        print(f"headmap: {error.__cause__ or error}", file=sys.stderr)
        raise SystemExit(2) from None
