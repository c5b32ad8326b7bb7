"""The README's short forms say what the results say."""

from __future__ import annotations

from typing import Any

from benchmarks import overview
from benchmarks.report import document


def request(contender: str, prompt_tokens: int, **figures: Any) -> dict[str, Any]:
    place = {"what": "request", "contender": contender, "prompt_tokens": prompt_tokens, "batch": 1, "budget": 256}
    return {**place, "dtype": "bfloat16", "shape": "small", **figures}


def test_a_contender_has_a_cell_for_each_length_it_was_measured_at() -> None:
    rows = [
        request("dynamic", 2048, token_ms=99.6, kv_bytes=24 * 2**20),
        request("dynamic", 32_768, token_ms=190.0, kv_bytes=1536 * 2**20),
        request("sparsemm", 2048, token_ms=90.0, kv_bytes=3 * 2**20),
        request("sparsemm", 32_768, missing="took over 3600 s"),
        request("dynamic", 2048, token_ms=300.0, kv_bytes=1) | {"batch": 8},
    ]
    text = overview.requests(document("efficiency", {}, rows))
    assert "| 2K | 32K |" in text
    assert "| ours, SparseMM | 90 ms / 3 MiB |  |" in text
    assert "| transformers DynamicCache | 100 ms / 24 MiB | 190 ms / 1,536 MiB |" in text
    assert "SnapKV" not in text


def test_steps_and_prefills_are_told_by_precision() -> None:
    seen = (("decode", "float32", 1.02), ("decode", "float32", 0.5), ("decode", "bfloat16", 1.1),
            ("prefill", "float32", 1.03), ("prefill", "bfloat16", 1.2))  # fmt: skip
    rows = [{"what": what, "dtype": dtype, "ratio": ratio} for what, dtype, ratio in seen]
    text = overview.steps(document("efficiency", {}, rows))
    assert "a decode step at equal bytes 0.50 to 1.02 in float32 and 1.10 to 1.10 in bfloat16" in text
    assert "a prefill 1.03 to 1.03 in float32 and 1.20 to 1.20 in bfloat16" in text


def test_nothing_measured_says_nothing() -> None:
    empty = document("x", {}, [])
    assert overview.requests(empty) == overview.steps(empty) == overview.scoring(empty) == ""
