"""Tables and plots of the README and docs, made from benchmarks/results/*.json: `python -m benchmarks.render`.

A table stands between `<!-- bench NAME -->` and `<!-- /bench -->`; whatever is between them is replaced.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.report import RESULTS

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "docs" / "figures"
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
_BLOCK = re.compile(r"(<!-- bench (\w+) -->\n).*?(<!-- /bench -->)", re.DOTALL)

Result = dict[str, Any]
LABELS = {
    "full": "full", "sparsemm": "SparseMM", "snapkv": "SnapKV", "pyramidkv": "PyramidKV", "adakv": "AdaKV",
    "random": "random map",
}  # fmt: skip


def main() -> int:
    tables = {name: table(_load(name)) for name, table in TABLES.items() if (RESULTS / f"{name}.json").is_file()}
    for page in PAGES:
        text = page.read_text()
        filled = _BLOCK.sub(lambda m: m[1] + tables.get(m[2], "Not measured yet.\n") + m[3], text)
        if filled != text:
            page.write_text(filled)
    if "accuracy" in tables:
        FIGURES.mkdir(parents=True, exist_ok=True)
        accuracy_figure(_load("accuracy")).savefig(FIGURES / "accuracy.svg", metadata={"Date": None})
    sys.stdout.write(f"rendered {', '.join(tables) or 'nothing'}\n")
    return 0


def _load(name: str) -> Result:
    return json.loads((RESULTS / f"{name}.json").read_text())


def _where(result: Result) -> str:
    machine, versions = result["machine"], result["versions"]
    place = f"{machine['cpu']}, {machine['cores']} cores" + (f", {machine['gpu']}" if "gpu" in machine else "")
    note = "" if "gpu" in machine else "; not measured on a GPU"
    return f"\n{place}; torch {versions['torch']}, transformers {versions['transformers']}{note}.\n"


def accuracy_table(result: Result) -> str:
    ratios = sorted({row["ratio"] for row in result["rows"] if row["method"] != "full"})
    full = next(row for row in result["rows"] if row["method"] == "full")
    lines = [
        "| method | " + " | ".join(f"{ratio:.0%}" for ratio in ratios) + " |",
        "|---|" + "---|" * len(ratios),
    ]
    for method in LABELS:
        rows = {row["ratio"]: row for row in result["rows"] if row["method"] == method and method != "full"}
        if rows:
            cells = (f"{rows[r]['accuracy']:.0%} / {rows[r]['transcription']:.0%}" for r in ratios)
            lines.append(f"| {LABELS[method]} | " + " | ".join(cells) + " |")
    head = (
        f"Lookups exactly right / characters of the page right, by the share of the prompt kept; the full cache has "
        f"{full['accuracy']:.1%} / {full['transcription']:.1%}. {full['lookups']} lookups on "
        f"{result['settings']['pages']} held-out pages, {result['mean_prompt_tokens']:.0f} prompt tokens on average; "
        f"95 % intervals are within {max(_half(row) for row in result['rows']):.0%} points.\n\n"
    )
    return head + "\n".join(lines) + "\n" + _where(result)


def _half(row: dict[str, float]) -> float:
    return max(row["accuracy_high"] - row["accuracy"], row["accuracy"] - row["accuracy_low"])


def efficiency_table(result: Result) -> str:
    lines = [
        "| | batch | budget | ours | DynamicCache + sdpa | ours / theirs (quartiles) |",
        "|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        what = f"{row['what']}, {row['shape']}"
        spread = f"{row['ratio']:.2f} ({row['ratio_q1']:.2f} to {row['ratio_q3']:.2f})"
        budget = row["budget"] if row["what"] == "decode" else f"{row['budget']} of {row['prompt_tokens']}"
        lines.append(
            f"| {what} | {row['batch']} | {budget} | {row['ours_ms']:.0f} ms | {row['dense_ms']:.0f} ms | {spread} |"
        )
    return "\n".join(lines) + "\n" + _where(result)


def scoring_table(result: Result) -> str:
    lines = [
        "| model | tokens of prompt + answer | pages | ours, pages a minute | plain loop | ratio | same scores "
        "| ours in bare forwards |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        lines.append(
            f"| {row['model']} | {row['prompt_tokens']:.0f} + {row['answer_tokens']:.0f} | {row['pages']} "
            f"| {row['ours_pages_per_minute']:.1f} | {row['plain_pages_per_minute']:.1f} | **{row['speedup']:.1f}** "
            f"| {'yes' if row['same_scores'] else 'no'} | {row['passes']:.2f} |"
        )
    lines += ["", "| workers | pages | seconds | share of one worker's |", "|---|---|---|---|"]
    for row in result["workers"]:
        lines.append(f"| {row['workers']} | {row['pages']} | {row['seconds']:.1f} | {row['share']:.2f} |")
    return "\n".join(lines) + "\n" + _where(result)


def heads_table(result: Result) -> str:
    lines = [
        f"- The top {row['share']:.0%} of the heads hold {row['held']:.0%} of the score."
        for row in result["rows"]
        if row["what"] == "sparsity"
    ]
    alike = next(row for row in result["rows"] if row["what"] == "stability")
    lines.append(
        f"- Maps from two disjoint sets of {result['settings']['map_pages']} pages: rank correlation "
        f"{alike['spearman']:.2f}, {alike['top10pct_overlap']:.0%} of the top 10 % in common."
    )
    lines += ["", "| masked | heads | lookups right (95 % interval) |", "|---|---|---|"]
    for row in result["rows"]:
        if row["what"] == "masking":
            interval = f"{row['accuracy']:.0%} ({row['accuracy_low']:.0%} to {row['accuracy_high']:.0%})"
            lines.append(f"| {row['masked']} | {row['heads']} | {interval} |")
    return "\n".join(lines) + "\n" + _where(result)


def serving_table(result: Result) -> str:
    lines = [
        "| clients | cache | tokens/s | first token p50 / p95 | next token p50 / p95 | KV bytes a request |",
        "|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        lines.append(
            f"| {row['clients']} | {row['method']} | {row['tokens_per_second']:.0f} "
            f"| {row['first_token_ms_p50']:.0f} / {row['first_token_ms_p95']:.0f} ms "
            f"| {row['token_ms_p50']:.0f} / {row['token_ms_p95']:.0f} ms | {row['kv_bytes_per_request']:,.0f} |"
        )
    return "\n".join(lines) + "\n" + _where(result)


FAMILY_CHECKS = {
    "prompt": "prompt", "geometry": "geometry", "scoring": "scoring", "parity": "full budget = transformers",
    "batch": "batched = alone", "several": "several pictures", "sliding": "sliding window",
    "services": "`/score`, `/generate`",
}  # fmt: skip


def families_table(result: Result) -> str:
    """Numbers are tests passed; a family whose tests were all skipped or that has none shows a dash."""
    lines = ["| small model of | " + " | ".join(FAMILY_CHECKS.values()) + " |", "|---|" + "---|" * len(FAMILY_CHECKS)]
    for row in result["rows"]:
        cells = []
        for check in FAMILY_CHECKS:
            count = row["checks"].get(check, {"passed": 0, "failed": 0})
            failed = f", **{count['failed']} failed**" if count["failed"] else ""
            cells.append(f"{count['passed']} passed{failed}" if count["passed"] or failed else "-")
        lines.append(f"| {row['model']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n" + _where(result)


def accuracy_figure(result: Result) -> Figure:
    """The paper's figure 5 in small: accuracy over the share kept, a line a method, with 95 % intervals."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    axes = figure.subplots(1, 2, sharex=True)
    for method, label in LABELS.items():
        rows = sorted((r for r in result["rows"] if r["method"] == method), key=lambda r: r["ratio"])
        if method == "full":
            for axis, key in zip(axes, ("accuracy", "transcription"), strict=True):
                axis.axhline(rows[0][key], color="0.4", linestyle="--", linewidth=1, label="full")
            continue
        x = [row["ratio"] * 100 for row in rows]
        width = {"linewidth": 2.4 if method == "sparsemm" else 1.2, "marker": "o", "markersize": 3.5}
        (line,) = axes[0].plot(x, [row["accuracy"] for row in rows], label=label, **width)
        low, high = ([row[f"accuracy_{end}"] for row in rows] for end in ("low", "high"))
        axes[0].fill_between(x, low, high, color=line.get_color(), alpha=0.12, linewidth=0)
        axes[1].plot(x, [row["transcription"] for row in rows], color=line.get_color(), label=label, **width)
    for axis, title in zip(axes, ("Lookups exactly right", "Characters of the page right"), strict=True):
        axis.set(xscale="log", ylim=(-0.02, 1.02), xlabel="share of the prompt kept, %", title=title)
        ticks = sorted({row["ratio"] * 100 for row in result["rows"]} - {100.0})
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.minorticks_off()
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[1].legend(frameon=False, fontsize=8)
    return figure


def soak_table(result: Result) -> str:
    rows = result["rows"]
    shown = [row for row in rows if row["requests"] % max(1, rows[-1]["requests"] // 8) == 0]
    lines = [
        "| requests | " + " | ".join(f"{row['requests']:,}" for row in shown) + " |",
        "|---|" + "---|" * len(shown),
        "| resident memory, MiB | " + " | ".join(f"{row['rss_mib']:.0f}" for row in shown) + " |",
    ]
    ended = ", ".join(f"{count:,} {how}" for how, count in result["ended"].items())
    setting = result["settings"]
    after = (
        f"\n{ended}; {len(setting['methods'])} methods, {setting['clients']} clients. After a fifth as warm-up the "
        f"line through the rest rises by {result['growth_kib_per_request']:.2f} KiB a request (medians of its first "
        f"and last quarter: {result['rss_mib_first']:.0f} and {result['rss_mib_last']:.0f} MiB). KV bytes held at the "
        f"end: {result['kv_reserved_bytes_after']:.0f}; exit code after SIGTERM: {result['exit_code']}.\n"
    )
    return "\n".join(lines) + "\n" + after + _where(result)


def health_table(result: Result) -> str:
    lines = ["| decoded meanwhile | looks | p50 | p99 | slowest |", "|---|---|---|---|---|"]
    for row in result["rows"]:
        what = f"{row['pictures']} {row['decoded']} pictures" if row["pictures"] else row["decoded"]
        lines.append(
            f"| {what} | {row['looks']} | {row['p50_ms']:.0f} ms | {row['p99_ms']:.0f} ms | {row['max_ms']:.0f} ms |"
        )
    return "\n".join(lines) + "\n" + _where(result)


TABLES: dict[str, Callable[[Result], str]] = {
    "accuracy": accuracy_table,
    "efficiency": efficiency_table,
    "families": families_table,
    "scoring": scoring_table,
    "heads": heads_table,
    "serving": serving_table,
    "soak": soak_table,
    "health": health_table,
}

if __name__ == "__main__":
    raise SystemExit(main())
