"""Contenders on a tiny model: the same weights and tokens for all, and the bytes that each really holds."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.contenders.case import Case
from benchmarks.contenders.measure import OURS, TRANSFORMERS, find, measure
from benchmarks.contenders.ours import plan_of
from benchmarks.efficiency import grid
from benchmarks.efficiency.grid import Grid, Pythons, run_case
from benchmarks.report import Recorder
from benchmarks.shapes import TINY, build, weights_sum
from headmap.kvcache.pool.paging import Paging
from headmap.kvcache.transformers.generate import cache_shape

PROMPT, BATCH, BUDGET = 300, 2, 64
TOKEN_BYTES = 2 * TINY.head_dim * 4
HEADS = TINY.num_layers * TINY.num_kv_heads


def case(contender: str) -> Case:
    return Case(contender, TINY, PROMPT, BATCH, BUDGET, settle=1, steps=3)


@pytest.mark.parametrize("contender", [*OURS, *TRANSFORMERS])
def test_a_contender_holds_what_its_method_says(contender: str) -> None:
    model = build(TINY)
    found = measure(model, case(contender), find(contender))
    if contender in OURS:  # bytes of pages: those of the plan, and one of each row for generated tokens
        paging = Paging(cache_shape(model))
        assert found["kv_bytes"] % (BATCH * paging.page_bytes) == 0
        most = paging.sequence(plan_of(model, case(contender)), 1) * BATCH * paging.page_bytes
        least = (PROMPT if contender == "full" else BUDGET) * BATCH * HEADS * TOKEN_BYTES
        assert least < found["kv_bytes"] <= most
        assert contender == "adakv" or found["kv_bytes"] == most
    else:
        tokens = PROMPT + (4 if contender == "static" else 0)
        assert found["kv_bytes"] == tokens * BATCH * HEADS * TOKEN_BYTES
    assert len(found["step_ms"]) == 3
    assert len(found["tokens"]) == 5


def test_full_caches_decode_the_same() -> None:
    steps = {}
    for name in ("full", *TRANSFORMERS):
        torch.manual_seed(3)
        model = build(TINY)
        with torch.inference_mode():
            for parameter in model.parameters():
                parameter.mul_(8)  # at their first size, random weights repeat one token
            contender = find(name)(model, case(name))
            prompts = torch.randint(0, 1000, (BATCH, PROMPT), generator=torch.Generator().manual_seed(1))
            out = [contender.prefill({"input_ids": prompts})]
            for number in range(4):
                out.append(contender.step(out[-1], PROMPT + number))
        steps[name] = torch.stack(out).tolist()
    assert steps["full"] == steps["dynamic"] == steps["static"]
    assert len({token for step in steps["full"] for token in step}) > 2


def test_a_case_survives_its_way_to_another_process() -> None:
    one = case("sparsemm")
    assert Case.from_json(one.to_json()) == one


def test_an_unknown_contender_is_named() -> None:
    with pytest.raises(ValueError, match="contender: 'flash' is none of full, sparsemm"):
        find("flash")


@pytest.mark.slow
def test_processes_measure_the_same_model(tmp_path: Path) -> None:
    ours, theirs = (run_case(Path(sys.executable), case(name)) for name in ("full", "dynamic"))
    assert ours["weights_sum"] == theirs["weights_sum"] == weights_sum(build(TINY))
    assert ours["tokens"] == theirs["tokens"]
    assert ours["peak_bytes"] >= ours["before_bytes"] > 0


@pytest.mark.slow
def test_a_process_counts_its_own_memory_and_not_that_of_the_one_that_began_it() -> None:
    ballast = np.ones(2**28)
    assert run_case(Path(sys.executable), case("full"))["before_bytes"] < ballast.nbytes


class NoKvpress(Pythons):
    def of(self, contender: str) -> Path | str:
        return "no network"


def test_a_contender_that_cannot_run_leaves_its_reason_and_the_others_rows(tmp_path: Path) -> None:
    path = tmp_path / "efficiency.json"
    record = Recorder(path)
    record.begin("efficiency", {})
    cells = Grid(shape=TINY, prompts=((PROMPT, 1),), contenders=("kvpress snapkv", "nothing"), steps=2)
    grid.measure(record, cells, NoKvpress())
    rows = json.loads(path.read_text())["rows"]
    assert [row["missing"] for row in rows] == ["no network"] * 2


@pytest.mark.slow
def test_a_failed_process_says_why() -> None:
    assert "'flash' is none of" in run_case(Path(sys.executable), case("flash"))["missing"]


def test_rounds_are_put_together_and_saved_after_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, saved = tmp_path / "efficiency.json", list[list[dict[str, object]]]()
    answers = iter([
        {"step_ms": [1.0, 2.0], "first_token_ms": 10.0, "kv_bytes": 5, "peak_bytes": 7, "before_bytes": 3},
        {"missing": "killed"},
        {"step_ms": [3.0, 8.0], "first_token_ms": 30.0, "kv_bytes": 5, "peak_bytes": 9, "before_bytes": 2},
    ])  # fmt: skip

    def canned(python: Path, case: Case) -> dict[str, object]:
        saved.append(json.loads(path.read_text())["rows"] if path.is_file() else [])
        return {"tokens": [1], "weights_sum": 2.0, "versions": {}} | next(answers)

    monkeypatch.setattr(grid, "run_case", canned)
    record = Recorder(path)
    record.begin("efficiency", {})
    grid.measure(record, Grid(shape=TINY, prompts=((PROMPT, 1),), contenders=("full",), rounds=3))
    (row,) = record.end()["rows"]
    assert (row["rounds"], row["token_ms"], row["first_token_ms"]) == (2, 2.5, 20.0)
    assert (row["peak_bytes"], row["before_bytes"]) == (9, 2)
    assert [[one["rounds"] for one in rows] for rows in saved] == [[], [1], [1]]
