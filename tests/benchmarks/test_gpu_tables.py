"""What a GPU's results say in the docs: a folder of parts is one result, and what is missed or missing shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import figures, gpu_tables, render
from benchmarks.gpu_bars import Parts, parts_of
from benchmarks.report import RESULTS, document, save

LONG = "CUDA out of memory. Tried to allocate 66.03 GiB. GPU 0 has a total capacity of 139.80 GiB"


def decode(method: str, prompt: int, batch: int = 1, **figures: Any) -> dict[str, Any]:
    case = {"what": "decode", "shape": "7 B", "grouped": False, "prompt_tokens": prompt, "batch": batch}
    return case | {"method": method} | figures


def took(token: float, floor: float, peak: float = 17e9) -> dict[str, Any]:
    return {"token_ms": token, "floor_ms": floor, "first_token_ms": 1500.0, "peak_bytes": peak}


def parity(name: str, **figures: Any) -> dict[str, Any]:
    return {"what": "parity", "name": name, "dtype": "bfloat16", "right": True, "ran": True} | figures


def fit(method: str, requests: int) -> dict[str, Any]:
    return {"what": "concurrent", "shape": "7 B", "method": method, "requests": requests}


def attention(method: str, **figures: Any) -> dict[str, Any]:
    return {"method": method, "prompt_tokens": 32_768, "batch": 1} | figures


PARTS: Parts = {
    "concurrent": document(
        "gpu",
        {"concurrent_prompt": 16_384, "memory_bytes": 80 * 10**9},
        [fit("sparsemm", 2380), fit("full", 7)],
    ),
    "full": document(
        "gpu",
        {},
        [decode("full", 2048, **took(8.0, 4.0)), decode("full", 32_768, **took(15.0, 7.0, 34e9)),
         decode("full", 32_768, batch=8, missing=LONG)],
    ),
    "kernels": document(
        "kernels",
        {},
        [attention("sparsemm", step_ms=0.75, floor_ms=0.03), attention("full", step_ms=8.0, floor_ms=4.0),
         attention("sdpa", step_ms=5.0, floor_ms=4.0)],
    ),
    "parity": document(
        "gpu",
        {},
        [parity("triton", error=2e-3), parity("graphs", error=0.0),
         parity("native", right=False, ran=False, error=None)],
    ),
    "sparsemm": document(
        "gpu",
        {},
        [{"what": "bandwidth", "bytes_per_second": 4e12}, decode("sparsemm", 2048, **took(7.5, 3.0)),
         decode("sparsemm", 32_768, **took(7.5, 3.0)), decode("sparsemm", 32_768, batch=8, **took(9.0, 3.0))],
    ),
}  # fmt: skip


def test_a_bar_says_whether_it_is_held() -> None:
    text = gpu_tables.bars_table(PARTS)
    assert "| wrong or failing | all | 0 of the backends and graphs | <= 0 | held |" in text
    assert "| decode over its floor, at worst | 7 B | 3.00 times | <= 1.3 | **MISSED** |" in text
    assert "| peak memory saved | 7 B | 0.50 of full | >= 0.52 | **MISSED** |" in text
    assert "| requests at once | 7 B | 340.00 times | >= 5.0 | held |" in text


def test_parity_is_of_what_can_run_there() -> None:
    assert gpu_tables.bars_table(PARTS).startswith(
        "Right: 2 of 2 (triton, graphs); largest error 2.0e-03 in bfloat16.\n"
    )
    wrong = document("gpu", {}, [parity("triton", error=None, right=False), parity("graphs", error=1e-3)])
    text = gpu_tables.bars_table({"parity": wrong})
    assert "Right: 1 of 2" in text
    assert "| 1 of the backends and graphs | <= 0 | **MISSED** |" in text


def test_both_methods_stand_side_by_side_with_their_floors() -> None:
    text = gpu_tables.decode_table(PARTS)
    assert "| 32,768 | 1 | 7.50 ms (3.00) | 15.00 ms (7.00) | 2.00 | 1.50 s / 1.50 s | 17.0 GB / 34.0 GB |" in text
    assert text.index("| 2,048 | 1 |") < text.index("| 32,768 | 1 |")
    assert "Requests of 16,384 tokens that fit in 80 GB:" in text
    assert "| 7 B | 2,380 | 7 |" in text


def test_what_is_missing_is_said_shortly() -> None:
    text = gpu_tables.decode_table(PARTS)
    assert "| 32,768 | 8 | 9.00 ms (3.00) | out of memory | - | 1.50 s / - | 17.0 GB / - |" in text
    assert "Tried to allocate" not in text
    late = document("gpu", {}, [decode("full", 2048, missing="not done in 120 s")])
    assert "| 2,048 | 1 | - | not done in 120 s | - | - / - | - / - |" in gpu_tables.decode_table({"full": late})


def test_attention_by_itself_stands_beside_torchs_own() -> None:
    text = gpu_tables.attention_table(PARTS)
    assert "| 32,768 | 1 | 0.75 ms (0.03) | 8.00 ms (4.00) | 5.00 ms (4.00) | 1.60 |" in text
    assert gpu_tables.attention_table({"parity": PARTS["parity"]}) == ""


def test_every_machine_that_a_part_was_measured_on_is_named() -> None:
    first, second = ({**part, "machine": part["machine"] | {"gpu": gpu}} for part, gpu in
                     ((PARTS["sparsemm"], "NVIDIA H200"), (PARTS["full"], "NVIDIA H100")))  # fmt: skip
    text = gpu_tables.decode_table({"a": first, "b": first, "c": second})
    assert text.count("NVIDIA H200") == text.count("NVIDIA H100") == 1


def test_the_plot_has_a_panel_for_each_batch_with_floors() -> None:
    drawn = figures.gpu(PARTS)
    assert drawn is not None
    one, eight = drawn.axes
    assert [line.get_label() for line in one.lines] == ["SparseMM", "SparseMM, floor", "full", "full, floor"]
    assert [np.asarray(line.get_ydata()).tolist() for line in one.lines] == [
        [7.5, 7.5],
        [3.0, 3.0],
        [8.0, 15.0],
        [4.0, 7.0],
    ]
    assert [np.size(line.get_ydata()) for line in eight.lines] == [1, 1, 0, 0]  # memory ran out for the full cache
    short = document("gpu", {}, [decode("full", 2048, **took(8.0, 4.0))])
    assert figures.gpu({"full": short}) is None


def test_a_folder_of_parts_fills_its_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    blocks = "".join(f"<!-- bench {name} -->\n<!-- /bench -->\n" for name in ("gpu", "gpu_decode", "gpu_attention"))
    page.write_text(blocks)
    for name, value in {"RESULTS": tmp_path, "PAGES": (page,), "FIGURES": tmp_path / "figures"}.items():
        monkeypatch.setattr(render, name, value)
    render.main()
    assert page.read_text().count("Not measured yet.") == 3
    for name, part in PARTS.items():
        save(part, tmp_path / "gpu" / f"{name}.json")
    render.main()
    text = page.read_text()
    assert text.count("Not measured yet.") == 0
    assert "**MISSED**" in text
    assert "(figures/gpu_decode.svg)" in text


def test_the_stored_results_fill_every_table_and_the_plot() -> None:
    stored = parts_of(RESULTS / "gpu")
    for table in (gpu_tables.bars_table, gpu_tables.decode_table, gpu_tables.attention_table):
        assert "NVIDIA" in table(stored)
    assert figures.gpu(stored) is not None
