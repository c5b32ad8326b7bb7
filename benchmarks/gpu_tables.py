"""The tables of the GPU benchmark. Its results are a folder with one file for each part."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.figures import LABELS
from benchmarks.gpu_bars import Parts, Row, bars, rows_of
from benchmarks.tables import where

METHODS = ("sparsemm", "full")


def bars_table(found: Parts) -> str:
    """The line on parity, and the table of bars."""
    lines = ["| | shape | value | bar | |", "|---|---|---|---|---|"]
    held = {True: "held", False: "**MISSED**", None: "-"}
    for bar in bars(rows_of(found)):
        value = f"{bar['value']:.{0 if isinstance(bar['value'], int) else 2}f} {bar['unit']}"
        lines.append(f"| {bar['figure']} | {bar['shape']} | {value} | {bar['bar'] or '-'} | {held[bar['holds']]} |")
    return _parity_line(found) + "\n" + "\n".join(lines) + "\n" + _where(found)


def _parity_line(found: Parts) -> str:
    """How many candidates are right, and the largest error in each number format."""
    ran = [row for row in rows_of(found) if row["what"] == "parity" and row["ran"]]
    if not ran:
        return ""
    names = ", ".join(dict.fromkeys(row["name"] for row in ran))
    errors = ", ".join(
        f"{max(row['error'] or 0.0 for row in ran if row['dtype'] == dtype):.1e} in {dtype}"
        for dtype in dict.fromkeys(row["dtype"] for row in ran)
    )
    return f"Right: {sum(row['right'] for row in ran)} of {len(ran)} ({names}); largest error {errors}.\n"


def decode_table(found: Parts) -> str:
    """A table for each shape, a line for each prompt and batch; then how many requests fit."""
    decode = [row for row in rows_of(found) if row["what"] == "decode"]
    cases = {(row["shape"], row["prompt_tokens"], row["batch"], row["method"]): row for row in decode}
    blocks = []
    for shape in dict.fromkeys(row["shape"] for row in decode):
        lines = [
            f"{shape}:\n",
            "| prompt | batch | SparseMM, next token (floor) | full, next token (floor) | full / SparseMM "
            "| first token, SparseMM / full | peak memory, SparseMM / full |",
            "|---|---|---|---|---|---|---|",
        ]
        for prompt, batch in sorted({case[1:3] for case in cases if case[0] == shape}):
            pair = [cases.get((shape, prompt, batch, method)) for method in METHODS]
            cells = [*(_took(row, "token_ms") for row in pair), _ratio(pair, "token_ms")]
            cells += [_both(pair, _first_token), _both(pair, _peak)]
            lines.append(f"| {prompt:,} | {batch} | " + " | ".join(cells) + " |")
        blocks.append("\n".join(lines) + "\n")
    for part in found.values():
        if fit := [row for row in part["rows"] if row.get("what") == "concurrent"]:
            blocks.append(_fit(part["settings"], fit))
    return "\n".join(blocks) + _where(found) if decode else ""


def attention_table(found: Parts) -> str:
    """Attention of a step over all layers, without the rest of the model, beside torch's own over dense tensors."""
    if "kernels" not in found:
        return ""
    result = found["kernels"]
    cases = {(row["prompt_tokens"], row["batch"], row["method"]): row for row in result["rows"]}
    lines = [
        "| prompt | batch | SparseMM (floor) | full (floor) | full, SDPA (floor) | full / SDPA |",
        "|---|---|---|---|---|---|",
    ]
    for prompt, batch in sorted({case[:2] for case in cases}):
        own = [cases.get((prompt, batch, method)) for method in (*METHODS, "sdpa")]
        cells = [*(_took(row, "step_ms") for row in own), _ratio([own[2], own[1]], "step_ms")]
        lines.append(f"| {prompt:,} | {batch} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n" + where(result)


def _fit(settings: Row, fit: Sequence[Row]) -> str:
    lines = [
        f"Requests of {settings['concurrent_prompt']:,} tokens that fit in {settings['memory_bytes'] / 1e9:.0f} GB:\n",
        "| shape | " + " | ".join(LABELS[method] for method in METHODS) + " |",
        "|---|---|---|",
    ]
    requests = {(row["shape"], row["method"]): row["requests"] for row in fit}
    for shape in dict.fromkeys(row["shape"] for row in fit):
        lines.append(f"| {shape} | " + " | ".join(f"{requests[shape, method]:,}" for method in METHODS) + " |")
    return "\n".join(lines) + "\n"


def _took(row: Row | None, key: str) -> str:
    """The time and its floor, or a short reason why there is none."""
    if row is None:
        return "-"
    if "missing" in row:
        return "out of memory" if "out of memory" in row["missing"] else row["missing"]
    return f"{row[key]:.2f} ms ({row['floor_ms']:.2f})"


def _first_token(row: Row) -> str:
    return f"{row['first_token_ms'] / 1e3:.2f} s"


def _peak(row: Row) -> str:
    return f"{row['peak_bytes'] / 1e9:.1f} GB"


def _both(pair: Sequence[Row | None], told: Callable[[Row], str]) -> str:
    return " / ".join("-" if row is None or "missing" in row else told(row) for row in pair)


def _ratio(pair: Sequence[Row | None], key: str) -> str:
    """Of the second to the first."""
    first, second = (None if row is None else row.get(key) for row in pair)
    return f"{second / first:.2f}" if first and second else "-"


def _where(found: Parts) -> str:
    """Parts may come from several machines or versions, and each is named."""
    return "".join(dict.fromkeys(where(part) for part in found.values() if part["benchmark"] == "gpu"))
