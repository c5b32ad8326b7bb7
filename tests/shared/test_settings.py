"""Settings: read from the environment, checked, frozen, and silent about secrets."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from headmap.settings import DEMO_MODEL, Settings


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("HEADMAP_"):
            monkeypatch.delenv(name)


def test_defaults_need_nothing() -> None:
    settings = Settings()
    assert settings.models == (DEMO_MODEL,)
    assert settings.data_dir.is_absolute()
    assert settings.sql_url == f"sqlite:///{settings.data_dir / 'registry.sqlite3'}"
    assert settings.celery_broker_url == "filesystem://"


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADMAP_MODELS", '["a/b", "c/d"]')
    monkeypatch.setenv("HEADMAP_DATABASE_URL", "postgresql://u@h/d")
    monkeypatch.setenv("HEADMAP_BROKER_URL", "redis://h")
    settings = Settings()
    assert settings.models == ("a/b", "c/d")
    assert (settings.sql_url, settings.celery_broker_url) == ("postgresql://u@h/d", "redis://h")


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Settings().max_running = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "value"),
    [("SHARD_PAGES", "0"), ("LEASE_SECONDS", "0"), ("MAX_ATTEMPTS", "0"), ("DTYPE", "int8"), ("MODELS", "a,b")],
)
def test_bad_values_refuse_to_start(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"HEADMAP_{name}", value)
    with pytest.raises(Exception, match=name.lower()):
        Settings()


def test_keys_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADMAP_API_KEYS", '["top-secret"]')
    settings = Settings(data_dir=Path("x"))
    assert "top-secret" not in repr(settings)
    assert settings.api_keys[0].get_secret_value() == "top-secret"
