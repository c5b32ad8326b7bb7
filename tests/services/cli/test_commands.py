from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from headmap.models import find_model
from headmap.settings import DEMO_MODEL, Settings
from services.cli.main import app

runner = CliRunner()


def run(*arguments: object) -> Result:
    return runner.invoke(app, [str(argument) for argument in arguments])


def refused(result: Result, code: int, *words: str) -> None:
    """One line on standard error, no traceback, nothing on standard output."""
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    for word in words:
        assert word in result.stderr


# ---- help


def test_help_imports_no_torch_and_no_transformers() -> None:
    code = (
        "import sys\nfrom services.cli.main import app\n"
        "assert not {'torch', 'transformers', 'sqlalchemy', 'fastapi', 'numpy'} & set(sys.modules), 'heavy'\n"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3], env={"PYTHONPATH": "shared:."}
    )


@pytest.mark.parametrize(
    "command", [[], ["up"], ["score"], ["generate"], ["maps"], ["maps", "import"], ["keys"], ["pages"]]
)
def test_every_command_has_help(command: list[str]) -> None:
    assert run(*command, "--help").exit_code == 0


# ---- models and pages


def test_models_as_json() -> None:
    (model, *_) = json.loads(run("models", "--json").stdout)
    assert (model["name"], model["family"]) == (DEMO_MODEL, "qwen2_vl")
    assert (Path(model["folder"]) / "config.json").is_file()


def test_models_as_a_table() -> None:
    assert DEMO_MODEL in run("models").stdout


def test_pages_writes_pictures_and_an_index(tmp_path: Path) -> None:
    assert run("pages", "--count", 2, "--seed", 3, "--out", tmp_path / "a").exit_code == 0
    assert run("pages", "--count", 2, "--seed", 3, "--out", tmp_path / "b").exit_code == 0
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["0000.png", "0001.png", "pages.jsonl"]
    assert (tmp_path / "a" / "0001.png").read_bytes() == (tmp_path / "b" / "0001.png").read_bytes()
    first = json.loads((tmp_path / "a" / "pages.jsonl").read_text().splitlines()[0])
    assert set(first) == {"file", "width", "height", "words", "questions"}


def test_pages_into_a_file_is_one_line_of_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = run("pages", "--count", 1, "--out", tmp_path / "file")
    assert result.exit_code == 1
    assert "Traceback" not in result.output


# ---- maps


def test_a_first_list_has_the_bundled_map_alone(tmp_path: Path) -> None:
    (listed,) = json.loads(run("maps", "list", "--json", "--data-dir", tmp_path).stdout)
    assert (listed["model"], listed["aliases"]) == (DEMO_MODEL, ["bundled", "default"])
    assert "no maps yet" in run("maps", "list", "--model", "some/model", "--data-dir", tmp_path).stdout


def test_maps_are_listed_and_shown(tmp_path: Path, map_id: str) -> None:
    assert map_id in run("maps", "list", "--data-dir", tmp_path).stdout
    (listed,) = json.loads(run("maps", "list", "--json", "--data-dir", tmp_path).stdout)
    shown = json.loads(run("maps", "show", map_id[:6], "--json", "--data-dir", tmp_path).stdout)
    assert listed["id"] == shown["id"] == map_id
    assert listed["aliases"] == ["default"]
    assert 0 < shown["top5pct_share"] < 1
    assert "layer" in run("maps", "show", map_id, "--data-dir", tmp_path).stdout


def test_an_alias_is_pointed_at_a_map(tmp_path: Path, map_id: str) -> None:
    told = json.loads(run("maps", "alias", map_id[:6], "stable", "--json", "--data-dir", tmp_path).stdout)
    assert (told["id"], told["aliases"]) == (map_id, ["default", "stable"])
    assert "stable of" in run("maps", "alias", map_id, "stable", "--data-dir", tmp_path).stdout
    refused(run("maps", "alias", "nope", "stable", "--data-dir", tmp_path), 1, "'nope'")
    refused(run("maps", "alias", map_id, "a b", "--data-dir", tmp_path), 2, "'a b'")


@pytest.mark.parametrize("bare", [False, True])
def test_an_export_can_be_imported(tmp_path: Path, map_id: str, bare: bool) -> None:
    file = tmp_path / "map.json"
    options = ["--bare"] if bare else []
    assert run("maps", "export", map_id, "--out", file, *options, "--data-dir", tmp_path).exit_code == 0
    told = ["--model", DEMO_MODEL, "--num-kv-heads", find_model(DEMO_MODEL, Settings()).num_kv_heads] if bare else []
    imported = run("maps", "import", file, *told, "--data-dir", tmp_path)
    assert imported.exit_code == 0, imported.output
    first, second = (
        json.loads(run("maps", "show", name, "--json", "--data-dir", tmp_path).stdout)
        for name in (map_id, imported.stdout.strip())
    )
    assert second["version"] == 2
    assert second["top_heads"] == [{**head, "score": pytest.approx(head["score"])} for head in first["top_heads"]]


def test_errors_of_maps_are_one_line(tmp_path: Path) -> None:
    refused(run("maps", "show", "nope", "--data-dir", tmp_path), 1, "'nope'")
    file = tmp_path / "broken.json"
    file.write_text("{")
    refused(run("maps", "import", file, "--data-dir", tmp_path), 1, "not JSON")
    file.write_text('{"0-0": [1.0]}')
    refused(run("maps", "import", file, "--data-dir", tmp_path), 2, "--num-kv-heads")
    file.write_text('{"x": [1.0]}')
    refused(run("maps", "import", file, "--model", "m", "--num-kv-heads", 1, "--data-dir", tmp_path), 1, "'x'")


# ---- score and generate


def test_an_unknown_model_is_one_line(tmp_path: Path) -> None:
    refused(run("score", "nope", "--data-dir", tmp_path), 1, "'nope' is not here", DEMO_MODEL)
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    refused(run("generate", "nope", "--image", tmp_path / "a.png", "What?", "--data-dir", tmp_path), 1, "'nope'")


def test_wrong_usage_ends_with_2(tmp_path: Path) -> None:
    assert run("score", DEMO_MODEL, "--pages", 0).exit_code == 2
    assert run("generate", DEMO_MODEL, "What?", "--image", tmp_path / "missing.png").exit_code == 2
    refused(run("score", DEMO_MODEL, "--rule", "x", "--data-dir", tmp_path), 2, "--rule", "'x'")


def test_a_wrong_variable_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADMAP_MAX_RUNNING", "many")
    refused(run("models"), 2, "HEADMAP_MAX_RUNNING", "'many'")


def test_generate_streams_the_answer_and_says_what_was_kept(tmp_path: Path, map_id: str) -> None:
    Image.new("RGB", (320, 160), "white").save(tmp_path / "a.png")
    ask = ("generate", DEMO_MODEL, "--image", tmp_path / "a.png", "What is it?", "--max-new-tokens", 3)
    whole = run(*ask, "--data-dir", tmp_path)
    assert whole.exit_code == 0, whole.output
    assert "full: kept" in whole.stderr
    part = run(*ask, "--ratio", 0.25, "--data-dir", tmp_path)
    assert part.exit_code == 0, part.output
    assert "sparsemm: kept" in part.stderr
    assert map_id in part.stderr
    refused_one = run(*ask, "--method", "h2o", "--budget", 9, "--data-dir", tmp_path)
    assert refused_one.exit_code == 2
    assert "'h2o'" in refused_one.stderr
    assert "Traceback" not in refused_one.output


def test_generate_refuses_what_is_no_picture(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"hello")
    result = run("generate", DEMO_MODEL, "--image", tmp_path / "a.png", "What?", "--data-dir", tmp_path)
    refused(result, 1, "a.png", "PNG, JPEG, WEBP")
