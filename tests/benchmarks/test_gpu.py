"""The GPU benchmark's logic, on a CPU and a tiny model: floor, bars, requests that fit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.report import Recorder
from benchmarks.shapes import TINY, VICUNA, build

SETUP = gpu.Setup(
    shape=TINY, prompts=(64, 256), compiled_prompts=(64,), budget=32, steps=3, settle=1, device="cpu", dtype="float32",
    backend="torch", graphs=False, memory_bytes=2 * 10**8, concurrent_prompt=256, concurrent_answer=8,
    copied_bytes=2**20,
)  # fmt: skip
KV_BYTES = 2 * TINY.head_dim * 4 * TINY.num_layers * TINY.num_kv_heads


def test_every_row_and_every_bar_is_there(tmp_path: Path) -> None:
    result = gpu.run(record=Recorder(tmp_path / "gpu.json"), setup=SETUP)
    assert result == json.loads((tmp_path / "gpu.json").read_text()) | {"settings": result["settings"]}
    requests = [row for row in result["rows"] if row["what"] == "request"]
    names = [(row["prompt_tokens"], row["contender"]) for row in requests]
    assert names == [(n, name) for n in (64, 256) for name in gpu.CONTENDERS] + [(64, "static")]
    floor = result["rows"][0]
    for row in requests:
        assert row["floor_ms"] == pytest.approx(
            (floor["weights_bytes"] + row["kv_bytes"]) / floor["bytes_per_second"] * 1e3
        )
    for row in requests:
        if row["contender"] == "sparsemm":  # pages of what is kept, and one of each row for generated tokens
            assert (32 + 32) * KV_BYTES <= row["kv_bytes"] <= (32 + 31 + 32) * KV_BYTES
    assert set(result["bars"]) == {
        "times_floor", "longest_over_shortest", "memory_saved", "faster_than_full", "concurrent",
    }  # fmt: skip


def test_bars_compare_at_the_longest_prompt() -> None:
    def row(name: str, prompt: int, token: float, floor: float, peak: float) -> dict[str, object]:
        figures = {"token_ms": token, "floor_ms": floor, "peak_bytes": peak}
        return {"what": "request", "contender": name, "prompt_tokens": prompt, **figures}

    rows = [
        row("sparsemm", 2048, 5.0, 4.0, 14.0), row("sparsemm", 32_768, 5.5, 5.0, 15.0),
        row("full", 2048, 5.0, 4.0, 15.0), row("full", 32_768, 16.5, 9.0, 30.0),
        {"what": "concurrent", "method": "sparsemm", "requests": 60},
        {"what": "concurrent", "method": "full", "requests": 6},
    ]  # fmt: skip
    assert gpu.bars(rows) == {
        "times_floor": 1.25, "longest_over_shortest": 1.1, "memory_saved": 0.5, "faster_than_full": 3.0,
        "concurrent": 10.0,
    }  # fmt: skip
    assert gpu.bars(rows[:1]) == {"times_floor": 1.25, "longest_over_shortest": 1.0}
    missing = {"what": "request", "contender": "full", "prompt_tokens": 32_768, "missing": "out of memory"}
    assert "memory_saved" not in gpu.bars([*rows[:2], missing])


def test_weights_of_a_step_leave_out_an_embedding_that_is_not_the_head() -> None:
    tied = build(TINY)
    assert gpu.step_weights(tied) == sum(weight.nbytes for weight in tied.parameters())
    apart = build(replace(TINY, llama=True))
    embedding = apart.get_input_embeddings().weight.nbytes
    assert gpu.step_weights(apart) == sum(weight.nbytes for weight in apart.parameters()) - embedding


def test_as_many_requests_fit_as_their_pages_do() -> None:
    model = build(TINY)
    weights = sum(weight.nbytes for weight in model.parameters())
    page = 32 * 2 * TINY.head_dim * 4
    per_request = (256 // 32 + 1) * TINY.num_layers * TINY.num_kv_heads * page
    setup = replace(SETUP, memory_bytes=weights + 1000 + 5 * per_request + per_request // 2)
    assert gpu.concurrent(model, setup, "full", working_bytes=1000) == 5
    assert gpu.concurrent(model, setup, "full", working_bytes=per_request) == 4
    assert gpu.concurrent(model, setup, "sparsemm", working_bytes=1000) > 20


def test_without_a_gpu_it_says_so() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(RuntimeError, match="no GPU"):
        gpu.run(record=Recorder())


def test_the_shape_is_that_of_seven_billion() -> None:
    per_layer = 4 * 4096**2 + 3 * 4096 * VICUNA.intermediate
    assert VICUNA.num_layers * per_layer + 2 * 32_000 * 4096 == pytest.approx(6.74e9, rel=0.01)
