"""`headmap maps diff`, `check` and `draw`, and `headmap show-head`: one test an outcome."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from headmap.head_scores import HeadScores, compare
from headmap.jobs.local import profile_here
from headmap.registry import maps
from headmap.registry.job_params import JobParams
from headmap.registry.maps import Provenance, add_map
from headmap.registry.session import open_database
from headmap.settings import Settings
from services.cli.main import app
from tests.services.cli.test_json import documented
from tests.shared.jobs.fakes import INFO, FakeScorer

runner = CliRunner()


@pytest.fixture
def data_dir(tmp_path: Path, migrated: Callable[[Settings], None]) -> Path:
    migrated(Settings(data_dir=tmp_path))
    return tmp_path


def file_map(data_dir: Path, matrix: np.ndarray, alias: str | None = None, model: str = "some/model") -> str:
    database = open_database(Settings(data_dir=data_dir))
    with database.write() as session:
        provenance = Provenance(model=model, revision=None, architecture=None, dataset="import")
        map_id = add_map(session, provenance, HeadScores(matrix, 2), promote="auto", by=None)
        if alias is not None:
            maps.set_alias(session, map_id, alias, by=None)
    database.close()
    return map_id


def run(data_dir: Path, *arguments: object) -> Result:
    return runner.invoke(app, [*(str(argument) for argument in arguments), "--data-dir", str(data_dir)])


A = np.arange(1.0, 81).reshape(8, 10)
B = A.copy()
B[0, :3] = 100  # of the top four heads, one is left


def test_diff_tells_how_alike_two_maps_are(data_dir: Path) -> None:
    a, b = file_map(data_dir, A), file_map(data_dir, B)
    alike = compare(HeadScores(A, 2), HeadScores(B, 2))
    told = json.loads(run(data_dir, "maps", "diff", a, b[:8], "--json").stdout)
    assert (told["a"], told["b"], told["spearman"]) == (a, b, alike.spearman)
    assert told["top5pct_overlap"] == alike.top5pct_overlap == 0.25
    assert (told["pearson"], told["top5pct_by_chance"]) == (alike.pearson, 0.05)
    assert [(head["layer"], head["head"]) for head in told["changes"][:3]] == [(0, 0), (0, 1), (0, 2)]
    shown = run(data_dir, "maps", "diff", a, b)
    assert "top 5 % in common     25 %" in shown.stdout


def test_diff_draws_a_scatter(data_dir: Path) -> None:
    a, b = file_map(data_dir, A), file_map(data_dir, B)
    assert run(data_dir, "maps", "diff", a, b, "--out", data_dir / "s.svg").exit_code == 0
    assert "<svg" in (data_dir / "s.svg").read_text()
    refused = run(data_dir, "maps", "diff", a, b, "--out", data_dir / "s.gif")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert ".svg or .png" in refused.stderr


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--min-overlap", 0.2], 0),
        (["--min-overlap", 0.25], 0),
        ([], 3),
        (["--min-overlap", 0.26], 3),
        (["--min-overlap", 0, "--min-spearman", 0.99], 3),
        (["--min-overlap", 1.1], 2),
    ],
)
def test_check_ends_with_3_for_maps_that_differ(data_dir: Path, options: list[object], code: int) -> None:
    file_map(data_dir, A, "stable")
    new = file_map(data_dir, B)
    result = run(data_dir, "maps", "check", new, "--against", "stable", *options)
    assert result.exit_code == code, result.output
    if code in (0, 3):
        assert result.stdout.startswith("passed" if code == 0 else "FAILED")
        told = json.loads(run(data_dir, "maps", "check", new, *options, "--json").stdout)
        assert (told["map"], told["passed"], told["top5pct_overlap"]) == (new, code == 0, 0.25)


def test_check_ends_with_1_for_maps_that_cannot_be_compared(data_dir: Path) -> None:
    new = file_map(data_dir, A)
    other = file_map(data_dir, A[:4], model="other/model")
    for arguments, named in (
        ((new, "--against", "stable"), "'stable'"),
        (("nope", "--against", new), "'nope'"),
        ((new, "--against", other), "shapes"),
    ):
        result = run(data_dir, "maps", "check", *arguments)
        assert (result.exit_code, result.stdout) == (1, ""), result.output
        assert named in result.stderr


@pytest.mark.parametrize("name", ["m.svg", "m.png"])
def test_draw_writes_a_picture(data_dir: Path, name: str) -> None:
    a = file_map(data_dir, A)
    assert run(data_dir, "maps", "draw", a, "--out", data_dir / name).exit_code == 0
    heads = (data_dir / name).read_bytes()
    assert run(data_dir, "maps", "draw", a, "--kv-heads", "--out", data_dir / name).exit_code == 0
    assert heads != (data_dir / name).read_bytes()


@pytest.fixture
def profiled(data_dir: Path) -> str:
    settings = Settings(data_dir=data_dir)
    database = open_database(settings)
    params = JobParams(dataset="synthetic", pages=3, rule="aligned", seed=0, max_new_tokens=8)
    job = profile_here(database, settings, INFO, params, FakeScorer())
    database.close()
    return job.map_id or ""


def test_show_head_draws_a_page(data_dir: Path, profiled: str) -> None:
    result = run(data_dir, "show-head", profiled[:6], 1, 0, "--page", 2)
    assert result.exit_code == 0, result.output
    assert Path(result.stdout.strip()).read_bytes().startswith(b"\x89PNG")
    assert run(data_dir, "show-head", profiled, 1, 0, "--out", data_dir / "h.svg").exit_code == 0
    assert "Layer 1, head 0" in (data_dir / "h.svg").read_text()


def test_show_head_as_json(data_dir: Path, profiled: str) -> None:
    told = json.loads(run(data_dir, "show-head", profiled, 1, 0, "--json").stdout)
    assert set(told) == documented(("show-head",))
    assert told["looks"][0] == {"token": "AB", "word": 0, "cell": [0, 0, 20, 20], "hit": True}
    assert (told["hits"], told["words"][1]["text"]) == (1, "CD")


def test_show_head_says_what_is_not_there(data_dir: Path, profiled: str) -> None:
    for arguments, named in (
        ((profiled, 3, 0), "no layer 3"),
        ((profiled, 0, 4), "head 4"),
        ((profiled, 0, 0, "--page", 3), "kept are 0, 1, 2"),
        ((file_map(data_dir, A), 0, 0), "it has none"),
    ):
        result = run(data_dir, "show-head", *arguments)
        assert (result.exit_code, result.stdout) == (1, ""), result.output
        assert named in result.stderr


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('{"0-0": 1, "0-0": 2}', "'0-0' is there twice"),
        ('{"0-0": 1, "00-1": 2}', "00-1"),
        ('{"1023-65": 1}', "more than 65536 heads"),
        ("[" * 100_000, "not JSON"),
        ('{"scores": {"0-0": 1}, "model": "a\\ufffe", "num_kv_heads": 1}', "model"),
        ('{"scores": {"0-0": 1}, "model": "a", "num_kv_heads": 1, "revision": 3}', "revision"),
    ],
)
def test_an_import_that_is_no_map_is_refused_in_a_line(data_dir: Path, tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "map.json"
    file.write_text(text)
    needed = [] if '"scores"' in text else ["--model", "m", "--num-kv-heads", "1"]
    result = run(data_dir, "maps", "import", file, *needed)
    assert (result.exit_code > 0, result.stdout) == (True, "")
    assert named in result.stderr
    assert result.stderr.count("\n") == 1


def test_an_export_is_imported_with_all_that_it_tells(data_dir: Path, profiled: str) -> None:
    file, again = data_dir / "map.json", data_dir / "again.json"
    assert run(data_dir, "maps", "note", profiled, "--tag", "prod").exit_code == 0
    assert run(data_dir, "maps", "export", profiled, "--out", file).exit_code == 0
    made = json.loads(run(data_dir, "maps", "import", file, "--json").stdout)
    assert (made["version"], made["pages"], made["tags"], made["origin_map_id"]) == (2, 3, ["prod"], profiled)
    assert run(data_dir, "maps", "export", made["id"], "--out", again).exit_code == 0
    assert again.read_bytes() == file.read_bytes()
    file.write_text(file.read_text().replace('"0-0": [', '"0-0": [1'))
    refused = run(data_dir, "maps", "import", file)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "checksum: the scores have" in refused.stderr


def test_list_searches(data_dir: Path) -> None:
    a, b = file_map(data_dir, A, "stable"), file_map(data_dir, B, model="other/model")
    run(data_dir, "maps", "note", b, "--tag", "prod", "--tag", "eu", "--notes", "after the move")

    def listed(*options: object) -> list[str]:
        return [one["id"] for one in json.loads(run(data_dir, "maps", "list", "--json", *options).stdout)]

    assert listed() == listed("--dataset", "import") == [b, a]
    assert listed("--order-by", "created_at") == [a, b]
    for options in (["--tag", "prod", "--tag", "eu"], ["--text", "MOVE"], ["--model", "other/model"]):
        assert listed(*options) == [b]
    assert listed("--alias", "stable") == [a]
    for options in (["--min-pages", 0], ["--rule", "paper"], ["--revision", "r"], ["--tag", "x"]):
        assert listed(*options) == []
    assert run(data_dir, "maps", "list", "--tag", "x").stdout == "no such maps\n"
    wrong = run(data_dir, "maps", "list", "--order-by", "size")
    assert (wrong.exit_code, wrong.stdout) == (2, "")
    assert "order_by" in wrong.stderr
