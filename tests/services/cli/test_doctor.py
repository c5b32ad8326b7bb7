"""`headmap doctor` tells what was tried and ends with 1 where nothing can serve."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from headmap.doctor import examine
from headmap.kvcache.backends import choice
from headmap.kvcache.shape import CacheShape
from headmap.settings import DEMO_MODEL
from services.cli.main import app
from tests.services.cli.test_json import documented


def test_it_says_what_was_tried_and_what_serves() -> None:
    done = CliRunner().invoke(app, ["doctor", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert set(found) == documented(("doctor",))
    assert found["serves"]
    assert found["devices"][0]["kv_memory_bytes"] > 0
    assert set(found["compilers"]) == {"c++", "nvcc", "ptxas"}
    assert found["openmp"]["threads"] >= 1
    on_cpu = [one for one in found["tries"] if one["device"] == "cpu"]
    assert [one["dtype"] for one in on_cpu] == ["float32", "bfloat16"]
    for one in on_cpu:
        tried = {each["name"]: each for each in one["choice"]["tried"]}
        assert tried["torch"]["reason"] is None
        assert tried[one["choice"]["chosen"]]["milliseconds"] > 0
        assert one["graphs"]["reason"] == "cpu has none"


def test_it_takes_a_models_own_shape_and_speaks_to_people() -> None:
    done = CliRunner().invoke(app, ["doctor", DEMO_MODEL])
    assert done.exit_code == 0, done.output
    for word in ("OpenMP: ", "c++: ", "float32", "bfloat16", "torch", "chosen"):
        assert word in done.stdout
    assert CliRunner().invoke(app, ["doctor", "no/such-model"]).exit_code == 1


def test_where_nothing_can_serve_it_ends_with_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "error_bound", lambda dtype: -1.0)
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 1
    assert "nothing can serve here" in done.stdout
    assert "wrong by" in done.stdout


def test_problems_name_each_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "error_bound", lambda dtype: -1.0)
    problem = examine(CacheShape(1, 2, 16, 4), 2)["tries"][0]["problem"]
    assert "torch: wrong by" in problem
    assert "native: " in problem
