"""The GPU benchmark in its short form: on a CPU and tiny models; floors, bars, requests that fit."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu, gpu_tables
from benchmarks.gpu_bars import bars, summary
from benchmarks.random_model import (
    QWEN2_VL_7B,
    TINY_GQA,
    TINY_MHA,
    VICUNA_7B,
    random_model,
    random_prompt,
    step_weights,
)
from benchmarks.report import Recorder
from headmap.kvcache.backends.choice import BACKENDS
from headmap.settings import Settings

CPU = torch.device("cpu")
SETUP = replace(gpu.SHORT, prompts=(64, 96), shapes=(TINY_MHA, TINY_GQA))
TOKEN_BYTES = 2 * TINY_MHA.head_dim * 4


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("gpu") / "rows.json"
    found = gpu.run(record=Recorder(path), setup=SETUP, parts=("sparsemm", "full", "concurrent"))
    assert found["rows"] == json.loads(path.read_text())["rows"]
    assert "cut short" not in summary(path.parent)
    return found


def test_every_case_has_its_row_those_of_sparsemm_first(result: dict[str, Any]) -> None:
    rows = [row for row in result["rows"] if row["what"] == "decode"]
    assert [(row["method"], row["shape"], row["prompt_tokens"], row["batch"]) for row in rows] == [
        (method, shape.name, prompt, batch)
        for method in ("sparsemm", "full")
        for shape in SETUP.shapes
        for prompt in SETUP.prompts
        for batch in SETUP.batches
    ]
    assert [row["missing"] for row in rows if "missing" in row] == []


def test_a_floor_is_of_weights_and_of_what_is_kept(result: dict[str, Any]) -> None:
    bandwidth = result["rows"][0]["bytes_per_second"]
    generated = SETUP.settle + SETUP.steps // 2
    for row in (row for row in result["rows"] if row["what"] == "decode"):
        shape = TINY_MHA if row["shape"] == TINY_MHA.name else TINY_GQA
        kept = SETUP.budget if row["method"] == "sparsemm" else row["prompt_tokens"]
        heads = shape.num_layers * shape.num_kv_heads
        assert row["kv_bytes"] == row["batch"] * heads * (kept + generated) * TOKEN_BYTES
        assert row["floor_ms"] == pytest.approx((row["weights_bytes"] + row["kv_bytes"]) / bandwidth * 1e3)


def test_every_bar_is_told_with_whether_it_holds(result: dict[str, Any]) -> None:
    assert {bar["figure"] for bar in result["bars"]} == {
        "decode over its floor, at worst", "longest over shortest prompt, at worst", "peak memory saved",
        "as fast as full", "requests at once",
    }  # fmt: skip
    for bar in result["bars"]:
        assert set(bar) == {"figure", "shape", "value", "unit", "bar", "holds"}
        assert (bar["bar"] is None) == (bar["holds"] is None)


def test_the_docs_have_tables_of_what_it_writes(result: dict[str, Any]) -> None:
    found = {"rehearsal": result}
    assert gpu_tables.bars_table(found).count("\n| ") == 1 + len(result["bars"])
    text = gpu_tables.decode_table(found)
    assert text.count("| 64 | 1 |") == len(SETUP.shapes)
    assert f"Requests of {SETUP.concurrent_prompt} tokens" in text


def test_bars_compare_at_the_longest_prompt_and_the_smallest_batch() -> None:
    def row(method: str, prompt: int, token: float, floor: float, peak: float, batch: int = 1) -> dict[str, Any]:
        figures = {"token_ms": token, "floor_ms": floor, "peak_bytes": peak, "grouped": False}
        case = {"what": "decode", "shape": "7 B", "method": method, "prompt_tokens": prompt, "batch": batch}
        return case | figures

    rows = [
        row("sparsemm", 2048, 5.0, 4.0, 14.0), row("sparsemm", 32_768, 5.5, 5.0, 15.0),
        row("full", 2048, 5.0, 4.0, 15.0), row("full", 32_768, 16.5, 9.0, 30.0),
        row("sparsemm", 32_768, 9.0, 8.0, 20.0, batch=8),
        {"what": "concurrent", "shape": "7 B", "method": "sparsemm", "requests": 60},
        {"what": "concurrent", "shape": "7 B", "method": "full", "requests": 6},
    ]  # fmt: skip
    assert {bar["figure"]: (bar["value"], bar["holds"]) for bar in bars(rows)} == {
        "decode over its floor, at worst": (1.25, True),
        "longest over shortest prompt, at worst": (1.1, True),
        "peak memory saved": (0.5, False),
        "as fast as full": (3.0, True),
        "requests at once": (10.0, True),
    }
    missing = {**rows[3], "missing": "out of memory"}
    del missing["token_ms"]
    longest = [bar for bar in bars([*rows[:2], missing]) if "full" in bar["figure"] or "saved" in bar["figure"]]
    assert longest == []


def test_parity_holds_every_backend_that_is_made_for_the_machine(tmp_path: Path) -> None:
    told: list[tuple[dict[str, Any], str]] = []
    setup = replace(SETUP, shapes=(TINY_GQA,))
    gpu._parity(setup, lambda row, line: told.append((row, line)))
    rows = [row for row, _ in told]
    assert {row["name"] for row in rows} == {*BACKENDS, "graphs", "compiled"}
    assert {(row["shape"], row["dtype"]) for row in rows if row["name"] == "torch"} == {
        (shape, dtype) for shape in (TINY_GQA.name, "sliding") for dtype in ("float32", "bfloat16", "float16")
    }
    assert [row for row in rows if row["ran"] and not row["right"]] == []
    assert all(not row["ran"] for row in rows if row["name"] in ("graphs", "compiled"))
    (bar,) = bars(rows)
    assert (bar["value"], bar["holds"]) == (0, True)


def test_the_engine_has_the_settings_that_users_have() -> None:
    settings = Settings()
    own = asdict(gpu.Defaults(None))
    assert own == {name: getattr(settings, name) for name in own}


def test_a_model_of_random_weights_reads_its_text_and_its_head_in_a_step() -> None:
    model = random_model(TINY_MHA, torch.float32, CPU)
    hidden, layers = 64, 2 * (4 * 64**2 + 3 * 64 * 64 + 2 * 64)
    assert step_weights(model) == 4 * (layers + 64 + TINY_MHA.vocabulary * hidden)
    prompt = random_prompt(model, 40, 1)
    assert prompt.prompt_tokens == 40
    assert int(prompt.inputs["input_ids"].min()) > 4


@pytest.mark.parametrize(("shape", "parameters"), [(VICUNA_7B, 6.74e9), (QWEN2_VL_7B, 7.61e9)])
def test_the_shapes_are_those_of_seven_billion(shape: Any, parameters: float) -> None:
    model = random_model(shape, torch.bfloat16, torch.device("meta"))
    embedding = shape.vocabulary * shape.num_heads * shape.head_dim
    assert step_weights(model) / 2 + embedding == pytest.approx(parameters, rel=0.01)


def test_without_a_gpu_it_says_so() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(RuntimeError, match="no GPU"):
        gpu.run(record=Recorder())
