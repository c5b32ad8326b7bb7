"""Head scores as a picture: a row per layer, a column per head, top heads outlined and numbered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from headmap.head_scores import HeadScores
from headmap.page_sums import Floats
from headmap.pictures.drawing import INK, MARK, PictureForm, entitle, save, short

TOP_SHARE = 0.05
HeatmapView = Literal["heads", "kv_heads"]
"""Query heads, or KV heads. The score of a KV head is the sum of its query heads' scores."""

_COLOURS = "Blues"  # zero is white, which covers most of a map and prints well
_MAX_NUMBERED = 12
_LONGEST = 9.0
"""Inches of the longer side of the grid. Cells are square if they fit."""


@dataclass(frozen=True)
class Picture:
    """The information in the title."""

    model: str
    version: int | None = None
    pages: int | None = None


def draw(
    scores: HeadScores,
    picture: Picture,
    form: PictureForm = "svg",
    *,
    view: HeatmapView = "heads",
    dpi: int = 200,
) -> bytes:
    """Draw the picture. The same scores and title give the same bytes.

    Colours show each head's share of the total score in percent. The scale is a square root, so that heads far below
    the peak are visible.
    """
    return save(_figure(scores, picture, view), form, dpi)


def _figure(scores: HeadScores, picture: Picture, view: HeatmapView) -> Figure:
    matrix = scores.matrix if view == "heads" else scores.per_kv_head()
    layers, heads = matrix.shape
    cell = min(0.45, _LONGEST / max(layers, heads))
    size = (max(4.2, heads * cell) + 1.6, max(1.2, layers * cell) + 1.5)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(
        matrix * 100,
        cmap=_COLOURS,
        norm=PowerNorm(0.5, vmin=0, vmax=float(matrix.max()) * 100),
        aspect="auto",
        interpolation="nearest",
    )
    if view == "heads":
        _draw_groups(axes, layers, heads, heads // scores.num_kv_heads)
    top = _top(matrix)
    _mark(axes, top)
    axes.set_xlabel("attention head" if view == "heads" else "KV head", color=INK)
    axes.set_ylabel("layer", color=INK)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(nbins=16, integer=True, min_n_ticks=1))
    axes.tick_params(length=0, colors=INK, labelsize=8)
    for spine in axes.spines.values():
        spine.set(color="#bbbbbb", linewidth=0.6)
    bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02)
    bar.set_label("share of the score, %", color=INK)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=2, colors=INK, labelsize=8)
    held = sum(float(matrix[place]) for place in top)
    what = "heads" if view == "heads" else "KV heads"
    note = f"outlined: top {TOP_SHARE:.0%} of {what} ({len(top)}), {held:.0%} of the score"
    entitle(axes, _title(picture), note, colour=MARK)
    return figure


def _top(matrix: Floats) -> list[tuple[int, int]]:
    """(layer, head) of the top 5 %, highest first; ties go to the first. `HeadScores.top_heads` has the same order."""
    order = np.argsort(-matrix, axis=None, kind="stable")[: max(1, round(TOP_SHARE * matrix.size))]
    return [divmod(int(place), matrix.shape[1]) for place in order]


def _draw_groups(axes: Axes, layers: int, heads: int, group: int) -> None:
    """Draw thin lines between the groups of query heads that share a KV head."""
    if group > 1:
        lines = [[(left - 0.5, -0.5), (left - 0.5, layers - 0.5)] for left in range(group, heads, group)]
        axes.add_collection(LineCollection(lines, colors="#bbbbbb", linewidths=0.6))


def _mark(axes: Axes, top: list[tuple[int, int]]) -> None:
    corners = np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)])
    squares = np.array([(head, layer) for layer, head in top])[:, None] + corners
    axes.add_collection(PolyCollection(squares, facecolor="none", edgecolor=MARK, linewidth=1.6))
    if len(top) <= _MAX_NUMBERED:  # more numbers would be too small to read
        for rank, (layer, head) in enumerate(top, start=1):
            axes.text(head, layer, str(rank), ha="center", va="center", fontsize=8, color="white")


def _title(picture: Picture) -> str:
    parts = [f"Visual heads of {short(picture.model)}"]
    if picture.version is not None:
        parts.append(f"map {picture.version}")
    if picture.pages is not None:
        parts.append(f"{picture.pages:,} page{'' if picture.pages == 1 else 's'}")
    return ", ".join(parts)
