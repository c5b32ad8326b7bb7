"""Whether the engine's books meet their bars: made-up shapes of published models, and no weights but the bundled ones.

A row is `{figure, shape, value, unit, bar, holds}`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from benchmarks import sampler
from benchmarks.books import admission, arrivals, lives, packing, timings
from benchmarks.books.figures import BARS, SHAPES, Bars, Figures
from benchmarks.report import Recorder

Part = Literal["steps", "memory", "graphs", "admission", "sampling", "prefill"]
PARTS: tuple[Part, ...] = ("steps", "memory", "graphs", "admission", "sampling", "prefill")


def run(*, record: Recorder, parts: Sequence[Part] = PARTS, short: bool = False, bars: Bars = BARS) -> dict[str, Any]:
    """Each part for every shape it is about."""
    record.begin("books", {"parts": list(parts), "short": short})
    figures = Figures(record, bars)
    for shape in SHAPES:
        if "steps" in parts:
            timings.measure(figures, shape, **{"pages_of_steps": 3, "repeats": 5} if short else {})
        if "memory" in parts:
            lives.measure(figures, shape, events=60 if short else 400)
        if "graphs" in parts:
            arrivals.measure(figures, shape, steps=300 if short else 2000)
        if "admission" in parts:
            admission.measure(figures, shape)
    if "sampling" in parts:
        sampler.add_rows(record, repeats=5 if short else 15)
    if "prefill" in parts:
        packing.measure(figures, repeats=3 if short else 7)
    return record.end()


def missed(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows whose bar is missed."""
    return [row for row in result["rows"] if not row["holds"]]


__all__ = ["PARTS", "Part", "missed", "run"]
