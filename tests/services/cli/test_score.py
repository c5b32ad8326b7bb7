"""`headmap score` against the job path: both make the same map."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from headmap.settings import DEMO_MODEL
from services.cli.main import app


@pytest.mark.slow
def test_score_files_a_map_and_draws_it(tmp_path: Path) -> None:
    runner = CliRunner()
    data_dir = ["--data-dir", str(tmp_path)]
    result = runner.invoke(
        app, ["score", DEMO_MODEL, "--pages", "2", "--seed", "4", "--max-new-tokens", "300", *data_dir]
    )
    assert result.exit_code == 0, result.output
    map_id = result.stdout.split()[1]
    assert "% of the score" in result.stdout
    assert (tmp_path / "heatmaps" / f"{map_id}.png").read_bytes().startswith(b"\x89PNG")
    shown = json.loads(runner.invoke(app, ["maps", "show", map_id, "--json", *data_dir]).stdout)
    assert (shown["pages"], shown["seed"], shown["rule"], shown["aliases"]) == (2, 4, "aligned", ["default"])
    assert shown["hits"] > 0


def test_score_files_a_map_of_text_retrieval_that_nothing_serves(tmp_path: Path) -> None:
    runner = CliRunner()
    data_dir = ["--data-dir", str(tmp_path)]
    asked = ["score", DEMO_MODEL, "--kind", "text-retrieval", "--pages", "2", *data_dir]
    made = json.loads(runner.invoke(app, [*asked, "--json"]).stdout)
    assert (made["kind"], made["aliases"], made["tokens_matched"] > 0) == ("text-retrieval", [], True)
    told = runner.invoke(app, asked).stdout  # the same job stands for it
    assert made["id"] in told
    assert "default" not in told
    listed = runner.invoke(app, ["maps", "list", "--kind", "text-retrieval", "--json", *data_dir]).stdout
    assert [one["id"] for one in json.loads(listed)] == [made["id"]]


@pytest.mark.parametrize("command", [["score", DEMO_MODEL], ["maps", "list"]])
def test_another_kind_is_wrong_usage(tmp_path: Path, command: list[str]) -> None:
    result = CliRunner().invoke(app, [*command, "--kind", "audio", "--data-dir", str(tmp_path)])
    assert (result.exit_code, "--kind" in result.output) == (2, True)
