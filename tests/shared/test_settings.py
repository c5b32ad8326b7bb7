"""Settings: read from the environment as people write it, checked, frozen, and silent about secrets."""

from __future__ import annotations

import os
from pathlib import Path
from typing import get_args

import pytest
from pydantic import ValidationError

from headmap.keys import Scope
from headmap.settings import DEMO_MODEL, Settings, load_settings
from headmap.settings_groups import GROUPS


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("HEADMAP_"):
            monkeypatch.delenv(name)


def test_defaults_need_nothing() -> None:
    settings = Settings()
    assert settings.models == (DEMO_MODEL,)
    assert settings.data_dir.is_absolute()
    assert settings.sql_url.database == str(settings.data_dir / "registry.sqlite3")
    assert settings.celery_broker_url == "filesystem://"


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADMAP_MODELS", '["a/b", "c/d"]')
    monkeypatch.setenv("HEADMAP_DATABASE_URL", "postgresql://u@h/d")
    monkeypatch.setenv("HEADMAP_BROKER_URL", "redis://h")
    settings = Settings()
    assert settings.models == ("a/b", "c/d")
    assert (str(settings.sql_url), settings.celery_broker_url) == ("postgresql://u@h/d", "redis://h")


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Settings().max_running = 3  # type: ignore[misc]


def test_every_setting_is_in_one_group_and_says_when_to_change_it() -> None:
    names = [name for group in GROUPS for name in group.model_fields]
    assert len(names) == len(set(names))
    assert set(names) == set(Settings.model_fields), "a setting belongs into a group of settings_groups/"
    for name, field in Settings.model_fields.items():
        about = field.json_schema_extra
        assert field.description, name
        assert isinstance(about, dict), f"{name}: is not made by setting()"
        assert about["change"], name
        is_number = {int, float} & {field.annotation, *get_args(field.annotation)}
        assert bool(about["unit"]) == bool(is_number), f"{name}: numbers have a unit, and nothing else has"


@pytest.mark.parametrize("blank", ["", "  ", "\t\n"])
def test_blank_variables_are_unset_for_all_settings(monkeypatch: pytest.MonkeyPatch, blank: str) -> None:
    default = Settings()
    for name in Settings.model_fields:
        monkeypatch.setenv(f"HEADMAP_{name.upper()}", blank)
    assert Settings() == default


@pytest.mark.parametrize(
    ("value", "items"),
    [
        ("a/b", ("a/b",)),
        (" a/b , c/d,, ", ("a/b", "c/d")),
        ('["a,b", "c"]', ("a,b", "c")),
        (' ["a", "", " "] ', ("a",)),
        ("[]", ()),
        ('"a/b"', ('"a/b"',)),  # quotes belong to the value, as in an env file that Docker reads
    ],
)
def test_lists_are_json_or_commas(monkeypatch: pytest.MonkeyPatch, value: str, items: tuple[str, ...]) -> None:
    monkeypatch.setenv("HEADMAP_MODELS", value)
    monkeypatch.setenv("HEADMAP_MODEL_DIRS", value)
    settings = Settings()
    assert settings.models == items
    assert settings.model_dirs == tuple(map(Path, items))


def test_keys_are_json_or_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("one, two", '["one", "two"]'):
        monkeypatch.setenv("HEADMAP_API_KEYS", value)
        assert [key.get_secret_value() for key in Settings().api_keys] == ["one", "two"]


def test_a_key_may_everything_unless_it_says_its_scopes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADMAP_API_KEYS", '["one", {"key": " two ", "scopes": ["infer", "score"]}]')
    found = [(key.get_secret_value(), key.scopes) for key in Settings().api_keys]
    assert found == [("one", {Scope.ADMIN}), ("two", {Scope.INFER, Scope.SCORE})]


@pytest.mark.parametrize(
    "item",
    [
        "1",
        '{"key": "hush"}',
        '{"key": "hush", "scopes": "infer"}',
        '{"key": "hush", "scopes": []}',
        '{"key": 1, "scopes": ["infer"]}',
        '{"key": " ", "scopes": ["infer"]}',
        '{"key": "infer", "scopes": ["hush"]}',
    ],
)
def test_a_key_with_wrong_scopes_refuses_to_start_and_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], item: str
) -> None:
    monkeypatch.setenv("HEADMAP_API_KEYS", f"[{item}]")
    with pytest.raises(SystemExit):
        load_settings()
    told = capsys.readouterr().err
    assert told.startswith("headmap: HEADMAP_API_KEYS: ")
    assert "hush" not in told
    with pytest.raises(ValidationError) as found:
        Settings()
    assert "hush" not in str(found.value)


@pytest.mark.parametrize("value", ['["", "x"]', "a,,b", '[" "]', ",", "a,", '[""]'])
def test_an_empty_key_refuses_to_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], value: str
) -> None:
    monkeypatch.setenv("HEADMAP_API_KEYS", value)
    with pytest.raises(SystemExit) as ended:
        load_settings()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("headmap: HEADMAP_API_KEYS: one of the keys is empty")


@pytest.mark.parametrize("key", ["${SECRET}", "a-${SECRET:-}", "$SECRET", "$(SECRET)", "two\\nlines"])
def test_a_key_that_nobody_can_mean_refuses_to_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    monkeypatch.setenv("HEADMAP_API_KEYS", f'["real", "{key}"]')
    with pytest.raises(SystemExit) as ended:
        load_settings()
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("headmap: HEADMAP_API_KEYS: one of the keys holds ")
    assert len(told.splitlines()) == 1
    assert "SECRET" not in told
    assert "real" not in told


@pytest.mark.parametrize("blank", ["", "  ", "\n"])
def test_blank_keys_refuse_to_start_where_they_would_let_in_everybody(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], blank: str
) -> None:
    monkeypatch.setenv("HEADMAP_API_KEYS", blank)
    with pytest.raises(SystemExit) as ended:
        load_settings()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("headmap: HEADMAP_API_KEYS: is blank")
    for access in ("keys", "open"):
        monkeypatch.setenv("HEADMAP_ACCESS", access)
        assert load_settings().api_keys == ()


@pytest.mark.parametrize("name", ["DATABASE_URL", "BROKER_URL", "RATE_LIMIT_URL"])
def test_a_blank_secret_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str) -> None:
    monkeypatch.setenv(f"HEADMAP_{name}", " ")
    assert getattr(load_settings(), name.lower()) is None
    assert capsys.readouterr().err == f"headmap: HEADMAP_{name} is blank and counts as unset\n"


def test_white_space_around_a_secret_is_not_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADMAP_DATABASE_URL", "postgresql://u:p@h/d\r\n")
    monkeypatch.setenv("HEADMAP_API_KEYS", '["one\\n", " two"]\n')
    settings = load_settings()
    assert settings.database_url == "postgresql://u:p@h/d"
    assert [key.get_secret_value() for key in settings.api_keys] == ["one", "two"]


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("MAX_RUNNING", "many", "input should be a valid integer, unable to parse string as an integer, got 'many'"),
        ("SHARD_PAGES", "0", "input should be greater than or equal to 1, got '0'"),
        ("LEASE_SECONDS", "0", "input should be greater than 0, got '0'"),
        ("DTYPE", "int8", "input should be 'auto', 'float32', 'bfloat16' or 'float16', got 'int8'"),
        ("DEVICE", "gpu", "must be auto, cpu, cuda or cuda:N, got 'gpu'"),
        ("LOG_LEVEL", "loud", "must be DEBUG, INFO, WARNING or ERROR, got 'loud'"),
        ("MODELS", '["a"', "begins like a JSON list but is not one, got '[\"a\"'"),
        ("MODELS", '["a", 3]', "item 2: input should be a valid string, got 3"),
        ("DATA_DIR", "~nobody-at-all/x", "names the home of an unknown user, got '~nobody-at-all/x'"),
    ],
)
def test_faults_are_told_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str, told: str
) -> None:
    monkeypatch.setenv(f"HEADMAP_{name}", value)
    with pytest.raises(SystemExit) as ended:
        load_settings()
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"headmap: HEADMAP_{name}: {told}\n"


def test_every_fault_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("HEADMAP_MAX_RUNNING", "0")
    monkeypatch.setenv("HEADMAP_MAX_WAITING", "-1")
    with pytest.raises(SystemExit):
        load_settings()
    assert len(capsys.readouterr().err.splitlines()) == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("API_KEYS", '["hunter2"'),
        ("API_KEYS", '["hunter2", 5]'),
        ("API_KEYS", "hunter2,,"),
        ("DATABASE_URL", "mysql://u:hunter2@h/d"),
        ("DATABASE_URL", "postgresql://u:hunter2/x@h:5432/d"),
        ("DATABASE_URL", "hunter2"),
        ("DATABASE_URL", "postgresql://u:hunter2@h:[::1]/d"),
        ("DATABASE_URL", "postgresql://u:hunter2${PASSWORD}@h/d"),
        ("DATABASE_URL", "postgresql://u:hunter2@h\n/d"),
        ("DATABASE_URL", "sqlite://hunter2.sqlite3"),
        ("BROKER_URL", "redis:hunter2@h"),
        ("BROKER_URL", "reddis://:hunter2@h"),
        ("BROKER_URL", "redis://:hunter2@h;redis://:$(PASSWORD)@g"),
        ("BROKER_URL", "redis://:hunter2#x@h:6379/0"),
        ("RATE_LIMIT_URL", "memcached://u:hunter2@h"),
        ("RATE_LIMIT_URL", "redis://:hunter2[@h:hunter2"),
    ],
)
def test_no_fault_tells_a_secret(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    monkeypatch.setenv(f"HEADMAP_{name}", value)
    with pytest.raises(SystemExit):
        load_settings()
    told = capsys.readouterr().err
    assert told.startswith(f"headmap: HEADMAP_{name}: ")
    assert "hunter2" not in told
    with pytest.raises(ValidationError) as found:
        Settings()
    assert "hunter2" not in str(found.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "postgresql://u:p%2Fw@h:5432/d?sslmode=require"),
        ("DATABASE_URL", "postgres://u@/d?host=/run/postgresql"),
        ("DATABASE_URL", "postgresql+psycopg://u:p@[::1]:5432/d"),
        ("DATABASE_URL", "postgresql://u:p$w@h/d"),
        ("DATABASE_URL", "sqlite:///some/where.sqlite3"),
        ("BROKER_URL", "redis://:p@h:6379/0;redis://:p@g:6379/0"),
        ("BROKER_URL", "amqp://u:p@h//"),
        ("RATE_LIMIT_URL", "rediss://:p@h:6379/1"),
    ],
)
def test_usual_urls_are_taken(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"HEADMAP_{name}", value)
    assert getattr(Settings(), name.lower()) == value


def test_unknown_variables_are_told_with_the_nearest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HEADMAP_MAX_RUNING", "3")
    monkeypatch.setenv("HEADMAP_QQQQ", "3")
    monkeypatch.setenv("HEADMAP_PORT", "8000")  # of docker-compose.yml
    monkeypatch.setenv("HEADMAP_MAX_BODY_BYTES_FILE", "somewhere")  # no secret
    monkeypatch.setenv("headmap_max_waiting", "3")  # names are read in any case
    assert load_settings().max_waiting == 3
    assert capsys.readouterr().err.splitlines() == [
        "headmap: HEADMAP_MAX_BODY_BYTES_FILE is not a setting; the nearest is HEADMAP_MAX_BODY_BYTES",
        "headmap: HEADMAP_MAX_RUNING is not a setting; the nearest is HEADMAP_MAX_RUNNING",
        "headmap: HEADMAP_QQQQ is not a setting",
    ]


def test_keys_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADMAP_API_KEYS", '["top-secret"]')
    settings = Settings(data_dir=Path("x"))
    assert "top-secret" not in repr(settings)
    assert settings.api_keys[0].get_secret_value() == "top-secret"


def test_a_value_may_lie_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "url"
    path.write_text("postgresql://u:p%20w@h/d\n")
    monkeypatch.setenv("HEADMAP_DATABASE_URL", " ")
    monkeypatch.setenv("HEADMAP_DATABASE_URL_FILE", str(path))
    assert Settings().sql_url.password == "p w"
    keys = tmp_path / "keys"
    keys.write_text("one,two\r\n")
    monkeypatch.setenv("HEADMAP_API_KEYS_FILE", str(keys))
    assert [key.get_secret_value() for key in Settings().api_keys] == ["one", "two"]


@pytest.mark.parametrize(
    ("content", "beside", "words"),
    [
        (None, "", "HEADMAP_BROKER_URL_FILE: cannot read {path}: No such file or directory"),
        (b" \n", "", "HEADMAP_BROKER_URL_FILE: {path} is empty"),
        (b"\xff", "", "HEADMAP_BROKER_URL_FILE: cannot read {path}: it is not UTF-8"),
        (b"redis://:hush@h", "redis://:hush@h", "HEADMAP_BROKER_URL and HEADMAP_BROKER_URL_FILE are both set"),
        (b"hush", "", "HEADMAP_BROKER_URL: cannot be read as a URL"),
    ],
)
def test_a_fault_of_a_file_is_one_line_without_its_content(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    content: bytes | None,
    beside: str,
    words: str,
) -> None:
    path = tmp_path / "value"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setenv("HEADMAP_BROKER_URL", beside)
    monkeypatch.setenv("HEADMAP_BROKER_URL_FILE", str(path))
    with pytest.raises(SystemExit) as ended:
        load_settings()
    told = capsys.readouterr().err
    assert ended.value.code == 2
    assert told.startswith(f"headmap: {words.format(path=path)}")
    assert told.count("\n") == 1
    assert "hush" not in told
