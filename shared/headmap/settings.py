"""Settings of every process: read once from HEADMAP_* variables, then frozen."""

from __future__ import annotations

import os
import re
import sys
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_origin
from urllib.parse import urlsplit

from pydantic import SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from headmap import settings_groups as groups
from headmap.environment import (
    PREFIX,
    Environment,
    blank_variables,
    check_secret,
    check_url,
    faults,
    is_blank,
    items_of,
    unknown_variables,
)
from headmap.models import DEMO_MODEL as DEMO_MODEL
from headmap.settings_groups.key import SettingsKey

if TYPE_CHECKING:
    from sqlalchemy import URL

SECRET = frozenset({"api_keys", "database_url", "broker_url", "rate_limit_url", "dashboard_secret"})
"""Settings whose values may hold a key or a password. HEADMAP_NAME_FILE may name a file with the value."""


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
    def _usable_keys(cls, value: tuple[SettingsKey, ...]) -> tuple[SettingsKey, ...]:
        keys = [(key.get_secret_value().strip(), key.scopes) for key in value]
        if not all(key for key, _ in keys):
            raise ValueError("one of the keys is empty: it would let in whoever sends none")
        try:
            return tuple(SettingsKey(check_secret(key), scopes) for key, scopes in keys)
        except ValueError as error:
            raise ValueError(f"one of the keys {error}") from error

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, value: str | None) -> str | None:
        if value is None:
            return None
        from sqlalchemy import make_url
        from sqlalchemy.exc import ArgumentError

        check_url(value, r"sqlite|postgres(ql(\+psycopg)?)?")
        try:
            url = make_url(value)
        except (ValueError, ArgumentError):
            raise ValueError("cannot be read as a URL of a database") from None  # its words hold the password
        if url.get_backend_name() == "sqlite" and (url.host or url.port or url.username is not None):
            raise ValueError("an SQLite URL has three slashes before a relative path and four before an absolute one")
        return value

    @field_validator("broker_url")
    @classmethod
    def _readable_broker(cls, value: str | None) -> str | None:
        if value is not None:
            from kombu.transport import TRANSPORT_ALIASES  # not everything that has settings has a broker

            for one in value.split(";"):  # Celery takes several, to fall back on
                check_url(one, "|".join(map(re.escape, TRANSPORT_ALIASES)))
        return value

    @field_validator("rate_limit_url")
    @classmethod
    def _known_counter(cls, value: str | None) -> str | None:
        return None if value is None else check_url(value, r"rediss?")

    @field_validator("blob_url")
    @classmethod
    def _known_store(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        places = {"file": not parts.netloc and parts.path.strip("/"), "s3": parts.netloc}
        if not places.get(parts.scheme) or set(value) & set("@?#"):
            raise ValueError("must be file:///FOLDER or s3://BUCKET/PREFIX, without credentials")
        return value

    @field_validator("dashboard_secret")
    @classmethod
    def _strong_secret(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(check_secret(value.get_secret_value())) < 32:
            raise ValueError("must have at least 32 characters, which nobody can guess")
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _known_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for item in value:
            try:
                ip_network(item)
            except ValueError as error:
                raise ValueError(f"{item!r} is no address or network, as 10.0.0.0/8") from error
        return value

    @field_validator("default_policy")
    @classmethod
    def _one_default(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("default_kv_ratio") is not None:
            raise ValueError("stands beside HEADMAP_DEFAULT_KV_RATIO, which it replaces; unset one of them")
        return value

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
            raise ValueError("names the home of an unknown user") from error

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, Environment(settings_cls, SECRET)

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

    Ends the process with status 2 where they are wrong, and where HEADMAP_API_KEYS is blank and would let in everybody.
    Faults, variables that set nothing and secrets that are blank are told on standard error, a line each.
    """
    for line in unknown_variables(os.environ, [*Settings.model_fields, *(f"{name}_file" for name in SECRET)]):
        _tell(line)
    try:
        settings = Settings(**given)
    except ValidationError as error:
        for line in faults(error, SECRET):
            _tell(line)
        raise SystemExit(2) from None
    except SettingsError as error:
        _tell(str(error.__cause__ or error))
        raise SystemExit(2) from None
    for name in blank_variables(os.environ, sorted(SECRET - set(given))):
        if getattr(settings, name):
            continue  # its file has a value
        if name == "api_keys" and settings.access == "auto":
            _tell("HEADMAP_API_KEYS: is blank, which would let in everybody; give a key, or unset it")
            raise SystemExit(2)
        _tell(f"{PREFIX}{name.upper()} is blank and counts as unset")
    return settings


def _tell(line: str) -> None:
    print(f"headmap: {line}", file=sys.stderr)
