"""The short forms at the head of docs/findings.md, each from one result."""

from __future__ import annotations

from benchmarks.figures import CONTENDERS, Result, native

SHOWN = ("sparsemm", "full", "dynamic", "kvpress snapkv", "kvpress adakv")


def requests(result: Result) -> str:
    """A line for each contender, a column for each prompt length, batch 1."""
    rows = {
        (row["contender"], row["prompt_tokens"]): row
        for row in native(result["rows"])
        if row["what"] == "request" and row["batch"] == 1
    }
    prompts = sorted({prompt for _, prompt in rows})
    if not rows:
        return ""
    lines = [
        "| next token / KV held, by length of the prompt | " + " | ".join(f"{p // 1024}K" for p in prompts) + " |",
        "|---|" + "---|" * len(prompts),
    ]
    for contender in SHOWN:
        cells = [_cell(rows.get((contender, prompt))) for prompt in prompts]
        if any(cells):
            lines.append(f"| {CONTENDERS[contender]} | " + " | ".join(cells) + " |")
    some, machine = next(iter(rows.values())), result["machine"]
    place = machine.get("gpu") or f"{machine['cpu']}, {machine['cores']} cores; not measured on a GPU"
    after = f"\n{some['shape']}, {some['dtype']}, B = {some['budget']} tokens a head, one request. {place}.\n"
    return "\n".join(lines) + "\n" + after


def _cell(row: Result | None) -> str:
    if row is None or "missing" in row:
        return ""
    return f"{row['token_ms']:.0f} ms / {row['kv_bytes'] / 2**20:,.0f} MiB"


def steps(result: Result) -> str:
    """What a decode step at equal bytes and a prefill cost against the dense cache, by precision."""
    step, prefill = (_ratios(result, what) for what in ("decode", "prefill"))
    if not step:
        return ""
    return (
        "- Speed on a CPU, in times what transformers' dense cache takes: a decode step at equal bytes "
        f"{step}, a prefill {prefill}.\n"
    )


def _ratios(result: Result, what: str) -> str:
    rows = [row for row in native(result["rows"]) if row["what"] == what]
    ranges = []
    for dtype in dict.fromkeys(row["dtype"] for row in rows):
        ratios = [row["ratio"] for row in rows if row["dtype"] == dtype]
        ranges.append(f"{min(ratios):.2f} to {max(ratios):.2f} in {dtype}")
    return " and ".join(ranges)


def scoring(result: Result) -> str:
    """How many times as fast as the plain loop, by model."""
    said = ", ".join(
        f"{row['speedup']:.1f} ({row['model']}; at most {row['limit_default']:.1f} for any exact scorer)"
        for row in result["rows"]
    )
    return f"- Profiling on a CPU, in times the speed of the plain loop: {said}.\n" if said else ""
