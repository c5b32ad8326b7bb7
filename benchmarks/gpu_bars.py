"""What the rows of the GPU benchmark are held to, and what a folder of its results says on one screen."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Parts = dict[str, dict[str, Any]]
"""Results by the names of their files: the session on a GPU writes one for each part."""


def parts_of(folder: Path) -> Parts:
    """Empty where there is no such folder."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}


def rows_of(parts: Parts) -> list[Row]:
    """Of all parts that `benchmarks.gpu` measured; attention by itself has rows of its own."""
    return [row for part in parts.values() if part["benchmark"] == "gpu" for row in part["rows"]]


def bars(rows: Sequence[Row]) -> list[Row]:
    """Return the bars that the given rows decide: {figure, shape, value, unit, bar, holds}.

    Bars of memory and speed against `full` use the shape without grouped heads: grouped heads keep so little of 32K
    tokens that weights decide.
    """
    found: list[Row] = []

    def bar(figure: str, shape: str, value: float, unit: str, asked: tuple[str, float] | None) -> None:
        holds = None if asked is None else (value <= asked[1] if asked[0] == "<=" else value >= asked[1])
        told = None if asked is None else f"{asked[0]} {asked[1]}"
        found.append({"figure": figure, "shape": shape, "value": value, "unit": unit, "bar": told, "holds": holds})

    parity = [row for row in rows if row["what"] == "parity" and row["ran"]]
    if parity:
        bar("wrong or failing", "all", sum(not row["right"] for row in parity), "of the backends and graphs", ("<=", 0))
    decode = [row for row in rows if row["what"] == "decode" and "token_ms" in row]
    for shape in dict.fromkeys(row["shape"] for row in decode):
        own = {method: _by_case(decode, shape, method) for method in ("sparsemm", "full")}
        ours, full = own["sparsemm"], own["full"]
        if ours:
            bar(
                "decode over its floor, at worst",
                shape,
                max(row["token_ms"] / row["floor_ms"] for row in ours.values()),
                "times",
                ("<=", 1.3),
            )
            ends = {batch: sorted(p for p, b in ours if b == batch) for _, batch in ours}
            bar(
                "longest over shortest prompt, at worst",
                shape,
                max(ours[p[-1], b]["token_ms"] / ours[p[0], b]["token_ms"] for b, p in ends.items()),
                "times",
                ("<=", 1.1),
            )
        if both := sorted((prompt, -batch) for prompt, batch in set(ours) & set(full)):
            longest = both[-1][0], -both[-1][1]
            asked = not ours[longest]["grouped"]
            bar(
                "peak memory saved",
                shape,
                1 - ours[longest]["peak_bytes"] / full[longest]["peak_bytes"],
                "of full",
                (">=", 0.52) if asked else None,
            )
            bar(
                "as fast as full",
                shape,
                full[longest]["token_ms"] / ours[longest]["token_ms"],
                "times",
                (">=", 2.0) if asked else None,
            )
    fit = {(row["shape"], row["method"]): row["requests"] for row in rows if row["what"] == "concurrent"}
    for shape in dict.fromkeys(shape for shape, _ in fit):
        if fit.get((shape, "full")):
            bar("requests at once", shape, fit[shape, "sparsemm"] / fit[shape, "full"], "times", (">=", 5.0))
    return found


def _by_case(rows: Sequence[Row], shape: str, method: str) -> dict[tuple[int, int], Row]:
    return {(r["prompt_tokens"], r["batch"]): r for r in rows if (r["shape"], r["method"]) == (shape, method)}


def summary(folder: Path) -> str:
    """One screen of what a folder's results say: rows of every part, what is missing, and the bars."""
    parts = parts_of(folder)
    rows = rows_of(parts)
    lines = [
        f"{name}: {len(part['rows'])} rows{'' if part['complete'] else ', cut short'}" for name, part in parts.items()
    ]
    lines += [
        f"  missing: {r['shape']} {r['method']} {r['prompt_tokens']} x {r['batch']}: {r['missing']}"
        for r in rows
        if "missing" in r
    ][:8]
    lines += [
        f"  wrong: {r['shape']} {r['dtype']} {r['name']}: {r['reason']}"
        for r in rows
        if r["what"] == "parity" and r["ran"] and not r["right"]
    ][:8]
    told = {True: "holds", False: "MISSED", None: ""}
    lines += [
        f"{told[b['holds']]:7} {b['shape']:18} {b['figure']:40} {b['value']:8.2f} {b['unit']} ({b['bar']})"
        for b in bars(rows)
    ]
    return "\n".join(lines)
