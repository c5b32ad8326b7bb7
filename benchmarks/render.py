"""Tables and plots of the README and docs, made from benchmarks/results/*.json: `headmap bench render`.

benchmarks/results/gpu is one result, in a file for each part.

A table stands between `<!-- bench NAME -->` and `<!-- /bench -->`; whatever is between them is replaced.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from benchmarks import figures, gpu_tables, overview, tables
from benchmarks.figures import Result
from benchmarks.gpu_bars import parts_of
from benchmarks.report import RESULTS

ROOT = Path(__file__).parents[1]
NOTHING = "Not measured yet.\n"
FIGURES = ROOT / "docs" / "figures"
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
_BLOCK = re.compile(r"(<!-- bench (\w+) -->\n).*?(<!-- /bench -->)", re.DOTALL)


def main() -> int:
    results = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))}
    results |= {"gpu": parts} if (parts := parts_of(RESULTS / "gpu")) else {}
    written, outdated = dict[str, str](), list[str]()
    for name, (of, table) in TABLES.items():
        try:
            written |= {name: table(results[of])} if of in results else {}
        except KeyError as missing:  # results may lack fields that the benchmark reports
            outdated.append(name)
            sys.stderr.write(f"{name}: the result says nothing of {missing}, its table stays; measure again\n")
    drawn = dict[str, str]()
    FIGURES.mkdir(parents=True, exist_ok=True)
    with rc_context({"svg.hashsalt": "headmap"}):  # the same figures from the same results
        for name, (of, draw, alt) in PLOTS.items():
            if written.get(name) and (figure := draw(results[of])) is not None:
                figure.savefig(FIGURES / f"{name}.svg", metadata={"Date": None})
                drawn[name] = alt
    for page in PAGES:
        folder = os.path.relpath(FIGURES, page.parent)
        pictures = {name: f"\n![{alt}]({folder}/{name}.svg)\n" for name, alt in drawn.items()}
        blocks = {name: table + pictures.get(name, "") for name, table in written.items() if table}
        text = page.read_text(encoding="utf-8")
        blocks |= {m[2]: m[0][len(m[1]) : -len(m[3])] for m in _BLOCK.finditer(text) if m[2] in outdated}
        filled = _BLOCK.sub(partial(_filled, blocks), text)
        if filled != text:
            page.write_text(filled, encoding="utf-8")
    sys.stdout.write(f"rendered {', '.join(results) or 'nothing'}\n")
    return 0


def _filled(blocks: dict[str, str], block: re.Match[str]) -> str:
    return f"{block[1]}{blocks.get(block[2], NOTHING)}{block[3]}"


SMOL_ACCURACY = ("smol-accuracy", "smol-accuracy-mixkv", "smol-accuracy-long")
SELECTORS = ("selectors", "smol-selectors")
SELECTOR_KINDS = ("selector-kinds", "smol-selector-kinds")
Table = Callable[[Result], str]
TABLES: dict[str, tuple[str, Table]] = {
    "accuracy": ("accuracy", tables.accuracy_table),
    "efficiency": ("efficiency", tables.efficiency_table),
    "selection": ("selection", tables.selection_table),
    "ways": ("efficiency", tables.ways_table),
    "requests": ("requests", tables.requests_table),
    "smol_requests": ("smol-requests", tables.requests_table),
    "requests_overview": ("requests", overview.requests),
    "steps_overview": ("efficiency", overview.steps),
    "scoring_overview": ("scoring", overview.scoring),
    "books": ("books", tables.books_table),
    "gpu": ("gpu", gpu_tables.bars_table),
    "gpu_decode": ("gpu", gpu_tables.decode_table),
    "gpu_attention": ("gpu", gpu_tables.attention_table),
    "families": ("families", tables.families_table),
    "scoring": ("scoring", tables.scoring_table),
    "heads": ("heads", tables.heads_table),
    **{name.replace("-", "_"): (name, tables.accuracy_table) for name in SMOL_ACCURACY},
    "smol_reading": ("smol-reading", tables.reading_table),
    "smol_sparsity": ("smol-accuracy", tables.sparsity_line),
    "smol_heads": ("smol-heads", tables.heads_table),
    **{name.replace("-", "_"): (name, tables.accuracy_table) for name in SELECTORS},
    **{name.replace("-", "_"): (name, tables.kinds_table) for name in SELECTOR_KINDS},
    "serving": ("serving", tables.serving_table),
    "gaps": ("gaps", tables.gaps_table),
    "soak": ("soak", tables.soak_table),
    "health": ("health", tables.health_table),
}
"""Name of a block -> the result it is of, and what makes the table."""
PLOTS: dict[str, tuple[str, Callable[[Result], Figure | None], str]] = {
    "accuracy": (
        "accuracy", figures.accuracy, "Accuracy over the share of the prompt kept, a line for each method",
    ),
    "smol_accuracy": (
        "smol-accuracy", figures.accuracy, "Accuracy of headmap/smol-ocr over the share of the prompt kept",
    ),
    "smol_accuracy_long": (
        "smol-accuracy-long", figures.accuracy, "The same with prompts of about 1,100 tokens",
    ),
    "smol_heads": (
        "smol-heads", figures.heads, "Answers of headmap/smol-ocr over the share of heads masked",
    ),
    "requests": (
        "requests", figures.requests, "Next token, first token and peak memory over the prompt's length",
    ),
    "smol_requests": (
        "smol-requests", figures.requests, "The same of headmap/smol-ocr with prompts of many pages",
    ),
    "gpu_decode": (
        "gpu", figures.gpu, "Next token of LLaVA-Vicuna's shape on one GPU over the prompt's length, with its floor",
    ),
    "heads": (
        "heads", figures.heads, "Lookups right over the share masked: top heads, random ones, of the same layers",
    ),
    "serving": (
        "serving", figures.serving, "Tokens a second and the slow end of both latencies over the number of clients",
    ),
}  # fmt: skip
"""Name of a block -> the result its plot is of, what draws it, and what it shows in words."""

if __name__ == "__main__":
    raise SystemExit(main())
