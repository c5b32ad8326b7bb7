"""Figures: intervals, ratios pair by pair, rows saved as they come, tables filled between their marks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import render, report, tables
from benchmarks.report import Recorder, document, in_turn, ratios, save


def test_ratios_are_medians_of_pairs() -> None:
    assert ratios({"a": [1, 2, 30], "b": [2, 2, 10]}, "a", "b")["ratio"] == 1


def test_variants_take_turns() -> None:
    order: list[str] = []
    in_turn({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repeats=2, warmup=1)
    assert order == ["a", "b"] * 3


def test_rows_are_saved_as_they_come(tmp_path: Path) -> None:
    path, said = tmp_path / "some.json", list[str]()
    record = Recorder(path, said.append)
    record.begin("some", {"pages": 2}, rows=[{"n": 0}])
    record.add({"n": 1}, "one")
    record.add({"n": 2}, "two", "here")
    cut_short = json.loads(path.read_text())
    assert ([row["n"] for row in cut_short["rows"]], cut_short["complete"]) == ([0, 1, 2], False)
    record.add({"n": 3}, "three", "here")
    result = record.end(more=1)
    assert json.loads(path.read_text()) == result
    assert [row["n"] for row in result["rows"]] == [0, 1, 3]
    assert (result["complete"], result["more"], result["settings"]) == (True, 1, {"pages": 2})
    assert said == ["one", "two", "three"]


def request(contender: str, **figures: Any) -> dict[str, Any]:
    place = {"contender": contender, "prompt_tokens": 2048, "batch": 1, "budget": 256, "dtype": "bfloat16"}
    return {"what": "request", **place, **figures}


MEASURED = {
    "token_ms": 100.4, "token_ms_q1": 90.0, "token_ms_q3": 120.0, "first_token_ms": 11_000.0, "kv_bytes": 3 * 2**20,
    "peak_bytes": 2.5 * 2**30,
}  # fmt: skip


def test_a_request_that_could_not_be_measured_says_why() -> None:
    rows = [request("sparsemm", **MEASURED), request("kvpress adakv", missing="no network")]
    table = tables.requests_table(document("efficiency", {}, rows))
    assert "Prompts of 2,048 tokens, batch 1, B = 256, bfloat16:" in table
    assert "| ours, SparseMM | 100 ms (90 to 120) | 11.0 s | 3 MiB | 2.50 GiB |" in table
    assert "| kvpress AdaKV | no network | | | |" in table


def test_a_result_without_rows_of_a_table_leaves_it_out() -> None:
    result = document("efficiency", {}, [request("full", **MEASURED)])
    assert tables.efficiency_table(result) == ""
    assert tables.requests_table(document("efficiency", {}, [])) == ""


def test_a_result_cut_short_says_so() -> None:
    rows = [request("full", **MEASURED)]
    assert "Cut short" in tables.requests_table(document("efficiency", {}, rows) | {"complete": False})
    assert "Cut short" not in tables.requests_table(document("efficiency", {}, rows) | {"complete": True})


def test_tables_stand_between_their_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {
        "model": "small", "pages": 8, "prompt_tokens": 300, "answer_tokens": 100, "ours_pages_per_minute": 60.0,
        "plain_pages_per_minute": 2.0, "speedup": 30.0, "speedup_best": 20.0, "limit": 25.0, "limit_default": 37.5,
        "passes": 1.25, "same_scores": True,
    }  # fmt: skip
    workers = [{"workers": 2, "pages": 8, "seconds": 3.0, "share": 0.5}]
    save(document("scoring", {}, [row], workers=workers), tmp_path / "scoring.json")
    page = tmp_path / "page.md"
    page.write_text(
        "above\n<!-- bench scoring -->\nold\n<!-- /bench -->\nbetween\n<!-- bench heads -->\nx\n<!-- /bench -->\n"
    )
    monkeypatch.setattr(render, "RESULTS", tmp_path)
    monkeypatch.setattr(render, "PAGES", (page,))
    monkeypatch.setattr(render, "FIGURES", tmp_path / "figures")
    assert render.main() == 0
    text = page.read_text()
    assert "| small | 300 + 100 | 8 | 60.0 | 2.0 | **30.0** | 37.5 | 20.0 | 25.0 | yes | 1.25 |" in text
    assert "| 2 | 8 | 3.0 | 0.50 |" in text
    assert "old" not in text
    assert text.startswith("above\n")
    assert "<!-- bench heads -->\nNot measured yet.\n<!-- /bench -->" in text
    assert "not measured on a GPU" in text
    render.main()
    assert page.read_text() == text


def test_a_block_shows_its_plot_and_the_plot_is_the_same_every_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short, long = request("full", **MEASURED), request("full", **MEASURED) | {"prompt_tokens": 4096}
    save(document("efficiency", {}, [short]), tmp_path / "requests.json")
    page = tmp_path / "page.md"
    page.write_text("<!-- bench requests -->\n<!-- /bench -->\n<!-- bench serving -->\n<!-- /bench -->\n")
    for name, value in {"RESULTS": tmp_path, "PAGES": (page,), "FIGURES": tmp_path / "figures"}.items():
        monkeypatch.setattr(render, name, value)
    render.main()
    assert "2,048 tokens" in page.read_text()
    assert "requests.svg" not in page.read_text()  # one length makes no line
    save(document("efficiency", {}, [short, long]), tmp_path / "requests.json")
    render.main()
    assert "(figures/requests.svg)" in page.read_text()
    assert "serving.svg" not in page.read_text()
    first = (tmp_path / "figures" / "requests.svg").read_bytes()
    render.main()
    assert (tmp_path / "figures" / "requests.svg").read_bytes() == first


def test_a_table_whose_result_is_too_old_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(document("health", {}, [{"decoded": "PNG"}]), tmp_path / "health.json")
    page = tmp_path / "page.md"
    page.write_text("<!-- bench health -->\nas it was\n<!-- /bench -->\n")
    for name, value in {"RESULTS": tmp_path, "PAGES": (page,), "FIGURES": tmp_path / "figures"}.items():
        monkeypatch.setattr(render, name, value)
    assert render.main() == 0
    assert page.read_text() == "<!-- bench health -->\nas it was\n<!-- /bench -->\n"


def test_what_was_measured_on_either_set_of_instructions_stands_side_by_side() -> None:
    place = {"what": "decode", "dtype": "float32", "shape": "small", "batch": 1, "budget": 256}
    took = {"ours_ms": 9.0, "dense_ms": 10.0, "ratio_q1": 0.8, "ratio_q3": 1.0}
    rows = [place | took | {"ratio": 0.9}, place | took | {"ratio": 0.95, "isa": "avx2"}]
    rows.append({**place, "batch": 8} | took | {"ratio": 0.7, "isa": "avx2"})
    text = tables.efficiency_table(document("efficiency", {}, rows))
    assert "| 1 | 256 | 9 ms | 10 ms | 0.90 (0.80 to 1.00) | 0.95 (0.80 to 1.00) |" in text
    assert "| 8 | 256 | - | - | - | 0.70 (0.80 to 1.00) |" in text
    ways = {"what": "ways", "padding": 1.5, "ms": {"each row": 4.0, "torch": 3.0, "native": 1.0}}
    text = tables.ways_table(document("efficiency", {}, [place | ways, place | ways | {"batch": 2, "isa": "avx2"}]))
    assert "| 1 | 256 | 4.0 ms | - | - | x 1.5 | 3.0 ms | 1.0 ms |" in text
    assert "| 2 |" not in text


def test_results_of_the_first_design_can_be_read() -> None:
    ended = {"ended": {"answered": 5}, "growth_kib_per_request": 0.0, "rss_mib_first": 1.0, "rss_mib_last": 1.0}
    old = document("soak", {"methods": ["full"], "clients": 1}, [{"requests": 5, "rss_mib": 1.0}], **ended, exit_code=0)
    assert "KV bytes held at the end: 7;" in tables.soak_table(old | {"kv_reserved_bytes_after": 7.0})
    told = tables.soak_table(old | {"kv_held_bytes_after": 0.0, "preempted": 12.0})
    assert "12 were preempted. KV bytes held at the end: 0;" in told


def test_a_missed_bar_shows() -> None:
    row = {"figure": "release", "shape": "small", "value": 1.5, "unit": "ms", "bar": 1.0, "holds": False}
    text = tables.books_table(document("books", {}, [row, row | {"value": 3, "unit": "x", "bar": None, "holds": True}]))
    assert "| release | small | 1.500 ms | 1, **missed** |" in text
    assert "| release | small | 3 x | - |" in text


def test_another_set_of_instructions_is_asked_for_where_torch_and_the_compiler_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CXX", "g++ -g")
    assert report.isa() == "native"
    given = report.avx2_environment()
    assert given["CXX"] == "g++ -g -march=x86-64-v3"
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert report.isa() == "avx2"
    assert not report.fast_bfloat16()
