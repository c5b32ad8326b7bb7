"""Compare two maps of one shape: one dot per head. Heads that are on top in only one map are marked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from headmap.head_scores import HeadScores, compare
from headmap.pictures.drawing import INK, MARK, PictureForm, save, short

TOP_SHARE = 0.05
_BOTH, _REST = "#1f77b4", "#9a9a9a"
_MAX_NAMED = 6
_MAX_SHAPES = 5000
"""The maximum number of separate dots in an SVG. More dots become one embedded picture, which any browser can show."""


@dataclass(frozen=True)
class MapName:
    """The information in an axis label."""

    model: str
    version: int


def draw_scatter(
    a: HeadScores, b: HeadScores, names: tuple[MapName, MapName], form: PictureForm = "svg", *, dpi: int = 200
) -> bytes:
    """Draw the picture. The same maps give the same bytes. Raises InvalidScores if their shapes differ."""
    alike = compare(a, b)
    figure = Figure(figsize=(5.4, 5.6), layout="constrained")
    axes = figure.add_subplot()
    first, second = set(a.top_heads(TOP_SHARE)), set(b.top_heads(TOP_SHARE))
    x, y = a.matrix * 100, b.matrix * 100
    peak = max(float(x.max()), float(y.max())) * 1.05
    axes.plot([0, peak], [0, peak], color="#cccccc", linewidth=0.8, zorder=0)
    everyone = {(layer, head) for layer in range(a.num_layers) for head in range(a.num_heads)}
    groups = (
        ("others", everyone - first - second, _REST),
        (f"top {TOP_SHARE:.0%} of both", first & second, _BOTH),
        (f"top {TOP_SHARE:.0%} of one", first ^ second, MARK),
    )
    for label, heads, colour in groups:
        places = tuple(np.array(sorted(heads), dtype=int).reshape(-1, 2).T)
        axes.scatter(
            x[places],
            y[places],
            s=22,
            color=colour,
            alpha=0.75,
            linewidths=0,
            label=f"{label} ({len(heads)})",
            rasterized=a.matrix.size > _MAX_SHAPES,
        )
    apart = np.abs(x - y)
    for layer, head in sorted(first ^ second, key=lambda place: -apart[place])[:_MAX_NAMED]:  # more would overlap
        above = y[layer, head] > x[layer, head]  # names avoid the diagonal, where the dots are
        axes.annotate(
            f"{layer}-{head}",
            (x[layer, head], y[layer, head]),
            xytext=(-5, 2) if above else (5, -6),
            ha="right" if above else "left",
            textcoords="offset points",
            fontsize=7,
            color=MARK,
        )
    axes.set_xscale("function", functions=(_root, np.square))  # like heatmaps, to show small scores
    axes.set_yscale("function", functions=(_root, np.square))
    for axis, name in ((axes.xaxis, names[0]), (axes.yaxis, names[1])):
        axis.set_label_text(f"share of the score, %: {short(name.model)}, map {name.version}", color=INK)
        axis.label.set_parse_math(False)
    axes.set_xlim(0, peak)
    axes.set_ylim(0, peak)
    axes.set_aspect("equal")
    axes.tick_params(colors=INK, labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.set_title(
        f"rank correlation {alike.spearman:.2f}, {alike.top5pct_overlap:.0%} of the top 5 % in common",
        loc="left",
        fontsize=10,
        color=INK,
    )
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    return save(figure, form, dpi)


def _root(values: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(values, 0))
