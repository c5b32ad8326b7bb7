"""`headmap evaluate`: exit codes, files, and what it refuses before a model is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from headmap.registry.job_params import EVALUATION
from headmap.registry.jobs import list_jobs
from headmap.registry.session import open_database
from headmap.registry.tables import JobState
from headmap.settings import DEMO_MODEL, Settings
from tests.services.cli.test_commands import refused, run
from tests.services.cli.test_json import told

ASK = ("evaluate", DEMO_MODEL, "--dataset", "synthetic")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--methods", "full,h2o"), "methods: 'h2o' is none of full"),
        (("--methods", "snapkv,snapkv"), "methods: 'snapkv' is named twice"),
        (("--ratios", "0.1,0.1"), "ratios: 0.1 is named twice"),
        (("--ratios", "20"), "ratios: must be above 0 and at most 1, got 20"),
        (("--ratios", "a"), "--ratios: must be numbers"),
        (("--margin", "0"), "margin: must be above 0"),
        (("--metric", "bleu"), "metric: 'bleu' is none of exact"),
        (("--require", "sparsemm within 0.1"), "--require: must read like"),
        (
            ("--require", "sparsemm@0.3 within 0.1"),
            "--require: ratio: 0.3 is none of the measured ones: full, sparsemm@0.05",
        ),
        (
            ("--require", "sparsemm@0.2/last-query within 0.1"),
            "--require: 'last-query' is none of mixkv; add it with --select",
        ),
        (("--select", "h2o"), "--select: 'h2o' is not one of snapkv"),
        (("--select", '{"pool": 99}'), "--select.pool: input should be less than or equal to 15"),
        (("--select", '{"observe": "last", "window": 2}'), "--select.window"),
        (("--select", "{"), "--select: not valid JSON"),
        (("--select", "mixkv", "--select", '{"window": 8, "pool": 11, "mix": 1}'), "selectors: 'mixkv' is named twice"),
        (
            ("--select", "snapkv", "--select", "mixkv", "--require", "sparsemm@0.2 within 0.1"),
            "--require: select: missing",
        ),
        (("--require", "sparsemm@0.2 within 0"), "margin: must be above 0"),
        (("--answers", "a.txt"), "--answers: must end in .jsonl"),
        (("--methods", "snapkv", "--map", "default"), "--map: only sparsemm reads a map"),
    ],
)
def test_wrong_usage_ends_with_2_and_names_the_field(tmp_path: Path, words: tuple[str, ...], named: str) -> None:
    refused(run(*ASK, *words, "--data-dir", tmp_path), 2, named)


def test_data_that_cannot_be_asked_is_named(tmp_path: Path) -> None:
    data_dir = ("--data-dir", tmp_path)
    snapkv = ("--methods", "snapkv", *data_dir)
    refused(run("evaluate", DEMO_MODEL, "--dataset", "synthdog-en", *snapkv), 2, "'synthdog-en' has no questions")
    refused(run("evaluate", DEMO_MODEL, "--dataset", "nothing", *snapkv), 1, "dataset", "'nothing'")
    refused(run(*ASK, *snapkv, "--metric", "vqa"), 2, "metric: 'vqa' takes at least 4 right answers")
    refused(run(*ASK, "--map", "stable", *data_dir), 1, "alias 'stable'")


@pytest.mark.slow
def test_the_curve_its_answers_and_its_picture(tmp_path: Path) -> None:
    answers, plot = tmp_path / "answers.jsonl", tmp_path / "curve.svg"
    found = told(
        *ASK, "--methods", "snapkv", "--ratios", "0.05,1", "--questions", 4, "--seed", 12, "--margin", 0.5,
        "--require", "snapkv@1 within 0.9", "--require", "snapkv@0.05 within 0.01",
        "--answers", answers, "--plot", plot, "--data-dir", tmp_path,
    )  # fmt: skip
    assert [(point["method"], point["ratio"], point["total"]) for point in found["points"]] == [
        ("full", 1, 4), ("snapkv", 0.05, 4), ("snapkv", 1, 4),
    ]  # fmt: skip
    assert found["points"][2]["difference_to_full"] == 0  # all of the prompt is the full cache
    assert [one["holds"] for one in found["required"]] == [True, False]
    assert not found["passed"]
    rows = [json.loads(line) for line in answers.read_text().splitlines()]
    assert len({(row["question_id"], row["method"], row["ratio"]) for row in rows}) == 12
    assert b"snapkv" in plot.read_bytes()


@pytest.mark.slow
def test_a_saved_evaluation_is_in_the_registry_and_not_measured_twice(tmp_path: Path) -> None:
    words = (
        *ASK, "--methods", "snapkv", "--ratios", "0.2", "--questions", 3, "--margin", 0.9,
        "--select", "last-query", "--select", '{"window": 8}', "--save",
        "--data-dir", tmp_path,
    )  # fmt: skip
    plain, first, again = told(*words[:-3], *words[-2:]), told(*words), told(*words)
    assert (plain["evaluation_id"], first) == (None, again)
    own = {"observe": "window", "window": 8, "pool": 5, "mix": 0.0}
    assert [point["select"] for point in first["points"]] == [None, "last-query", own]
    assert "window=8" in run(*words).stdout
    timeless = [{**point, "token_ms": None} for point in first["points"]]
    assert timeless == [{**point, "token_ms": None} for point in plain["points"]]
    database = open_database(Settings(data_dir=tmp_path))
    with database.read() as session:
        (job,) = list_jobs(session, EVALUATION).items
    database.close()
    assert (job.id, job.state, job.params.pages) == (first["evaluation_id"], JobState.SUCCEEDED, 3)
