"""What a request costs: steps at equal bytes, choosing tokens, ways to attend, and whole requests.

`decode`, `prefill` and `filled_ragged` are for trials by hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

from benchmarks.efficiency.equal_bytes import (
    decode,
    filled_dense,
    filled_ragged,
    measure_decode,
    measure_prefill,
    prefill,
)
from benchmarks.efficiency.grid import Grid, Requests
from benchmarks.efficiency.grid import measure as measure_requests
from benchmarks.efficiency.pages import PageGrid
from benchmarks.efficiency.selection import measure as measure_selection
from benchmarks.efficiency.ways import measure as measure_ways
from benchmarks.report import Recorder, isa
from benchmarks.shapes import GQA, MHA, Shape, build
from benchmarks.skew import published_skew
from headmap.kvcache.pool.paging import PAGE_TOKENS

Part = Literal["decode", "prefill", "selection", "ways", "requests"]
PARTS: tuple[Part, ...] = get_args(Part)


def run(
    *,
    record: Recorder,
    parts: Sequence[Part] = PARTS,
    requests: Requests | None = None,
    repeats: int = 15,
    budgets: Sequence[int] = (256, 1024),
    earlier: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """Measure some parts; `earlier` has the rows of another run; its rows of other parts and instructions are kept."""
    requests = requests or Grid()
    measured = {("request" if part == "requests" else part, isa()) for part in parts}
    kept = [row for row in earlier if (row["what"], row.get("isa", "native")) not in measured]
    record.begin(
        "efficiency",
        {"repeats": repeats, "page_tokens": PAGE_TOKENS, "requests": requests.settings},
        rows=kept,
    )
    if "decode" in parts:
        measure_decode(record, budgets=budgets, repeats=repeats)
    if "prefill" in parts:
        measure_prefill(record, repeats=repeats)
    if "selection" in parts:
        measure_selection(record, repeats=repeats)
    if "ways" in parts:
        measure_ways(record, budgets=budgets, repeats=repeats)
    if "requests" in parts:
        measure_requests(record, requests)
    return record.end()


__all__ = [
    "GQA", "MHA", "PARTS", "Grid", "PageGrid", "Part", "Shape", "build", "decode", "filled_dense", "filled_ragged",
    "prefill", "published_skew", "run",
]  # fmt: skip
