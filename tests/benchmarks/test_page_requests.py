"""Whole requests of a real model: one prompt of pages for all contenders, and a map of the model's own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.contenders.case import Case
from benchmarks.contenders.checkpoint import save_prompt
from benchmarks.contenders.measure import find, load, measure
from benchmarks.contenders.ours import plan_of
from benchmarks.efficiency import pages
from benchmarks.efficiency.grid import run_case
from benchmarks.efficiency.pages import PageGrid, page_prompts
from headmap.errors import PromptTooLong, UnsupportedModel
from headmap.families.loading import LoadedModel, load_model
from headmap.head_scores import HeadScores
from headmap.models import read_model
from tests.models import pixtral, qwen2_vl, save

SKEWED = np.array([[8.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 8.0]])
KEPT = 0.1


def fixed_map(loaded: LoadedModel, seed: int, count: int) -> HeadScores:
    """Random weights look at nothing, so a map from pages would have no hit."""
    del seed, count
    return HeadScores(SKEWED, loaded.info.num_kv_heads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(pixtral(), tmp_path_factory.mktemp("pixtral"))


@pytest.fixture(scope="module")
def cells(folder: Path) -> Iterator[list[list[Case]]]:
    """Two prompts, with what they were saved in."""
    contenders = ("full", "sparsemm", "snapkv", "dynamic")
    info = read_model("small", folder)
    grid = PageGrid(info, (500, 1000), contenders, dataset="synthetic", kept=KEPT, map_pages=1, steps=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pages, "profile", fixed_map)
        made = grid.cells()
        yield [next(made), next(made)]
        made.close()


def run(case: Case) -> dict[str, Any]:
    return measure(load(case), case, find(case.contender))


def test_all_contenders_get_the_same_pages_and_full_caches_answer_alike(cells: list[list[Case]]) -> None:
    for cell in cells:
        found = {case.contender: run(case) for case in cell}
        assert found["full"]["tokens"] == found["dynamic"]["tokens"]
        assert all(len(one["step_ms"]) == 4 for one in found.values())
        full, kept = found["dynamic"]["kv_bytes"], found["sparsemm"]["kv_bytes"]
        assert KEPT * full < kept < 3 * KEPT * full


@pytest.mark.parametrize("contender", ["full", "dynamic"])
def test_answers_depend_on_the_pictures(contender: str, cells: list[list[Case]], tmp_path: Path) -> None:
    case = next(case for case in cells[0] if case.contender == contender)
    inputs = case.model.inputs(torch.float32, "cpu")
    inputs["pixel_values"] = -inputs["pixel_values"]
    save_prompt(tmp_path / "dark.safetensors", inputs, case.model.head_scores())
    dark = replace(case, model=replace(case.model, prompt=str(tmp_path / "dark.safetensors")))
    assert run(dark)["tokens"] != run(case)["tokens"]


def test_budgets_follow_the_models_own_map(cells: list[list[Case]]) -> None:
    sparsemm = next(case for case in cells[0] if case.contender == "sparsemm")
    plan = plan_of(load(sparsemm), sparsemm)
    assert plan.tokens[0][0] > plan.tokens[0][1]
    assert plan.tokens[1][1] > plan.tokens[1][0]


def test_a_case_with_a_real_model_survives_its_way_to_another_process(cells: list[list[Case]]) -> None:
    assert [Case.from_json(case.to_json()) for case in cells[0]] == cells[0]


def test_prompts_come_near_to_their_lengths_and_stay_within_the_models_positions(folder: Path) -> None:
    loaded = load_model(read_model("small", folder))
    short, long = page_prompts(loaded, (600, 100_000), "synthetic")
    assert short.prompt_tokens < long.prompt_tokens <= loaded.info.max_positions - pages.ROOM
    assert len(short.images) < len(long.images)
    assert short.inputs["input_ids"][0, :99].tolist() == long.inputs["input_ids"][0, :99].tolist()
    (once,) = page_prompts(loaded, (600, 601), "synthetic")
    assert once.prompt_tokens == short.prompt_tokens


def test_a_model_without_room_for_a_page_and_one_with_positions_of_its_own_are_refused(
    folder: Path, tmp_path: Path
) -> None:
    loaded = load_model(read_model("small", folder))
    with pytest.raises(PromptTooLong, match="no page of 'synthetic'"):
        page_prompts(replace(loaded, info=replace(loaded.info, max_positions=100)), (600,), "synthetic")
    other = load_model(read_model("other", save(qwen2_vl(), tmp_path)))
    with pytest.raises(UnsupportedModel, match="'other' cannot be measured"):
        page_prompts(other, (600,), "synthetic")


def test_settings_name_the_model_and_no_place_on_this_machine(folder: Path) -> None:
    settings = PageGrid(read_model("small", folder)).settings
    assert (settings["name"], settings["kept"]) == ("small", KEPT)
    assert str(folder) not in str(settings)


@pytest.mark.slow
def test_processes_measure_the_same_model(cells: list[list[Case]]) -> None:
    found = {case.contender: run_case(Path(sys.executable), case) for case in cells[0]}
    assert found["full"]["tokens"] == found["dynamic"]["tokens"]
    assert len({one["weights_sum"] for one in found.values()}) == 1
    assert all(one["peak_bytes"] >= one["before_bytes"] > 0 for one in found.values())
