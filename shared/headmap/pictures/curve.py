"""An evaluation's curve: the accuracy of each method and selector against the share of the prompt that is kept."""

from __future__ import annotations

from matplotlib.figure import Figure

from headmap.evaluation.cases import FULL
from headmap.evaluation.curve import Curve, series
from headmap.evaluation.selectors import selector_label
from headmap.pictures.drawing import INK, MARK, PictureForm, save, short

_LINES = ("-", "--", ":", "-.")
_COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#9467bd", "#8c564b", "#7f7f7f")


def draw_curve(curve: Curve, model: str, dataset: str, form: PictureForm = "svg", *, dpi: int = 200) -> bytes:
    """Draw a line with 95 % intervals for each method and selector, and `full` as a band.

    A method has one colour, a selector one kind of line. The same curve gives the same bytes.
    """
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for point in curve.points:
        if point.method == FULL:
            axes.axhspan(*(100 * end for end in point.interval), color="#dddddd", linewidth=0, zorder=0)
            axes.axhline(100 * point.right, color=INK, linewidth=1, linestyle="--", label="full, and its 95 % interval")
    lines = series(curve.points)
    methods, selectors = (list(dict.fromkeys(kind)) for kind in zip(*lines, strict=True)) if lines else ((), ())
    for (method, select), own in lines.items():
        colour, line = methods.index(method) % len(_COLOURS), selectors.index(select) % len(_LINES)
        right = [100 * point.right for point in own]
        low = [100 * max(0.0, point.right - point.interval[0]) for point in own]
        high = [100 * max(0.0, point.interval[1] - point.right) for point in own]
        axes.errorbar(
            [100 * point.ratio for point in own], right, yerr=(low, high), color=_COLOURS[colour],
            linestyle=_LINES[line], marker="o", markersize=4, linewidth=1.4, elinewidth=0.8, capsize=2,
            label=method if len(selectors) == 1 else f"{method}/{selector_label(select)}",
        )  # fmt: skip
    if curve.recommended is not None and (best := curve.point(curve.recommended)) is not None:
        axes.scatter(
            [100 * best.ratio], [100 * best.right], s=120, facecolors="none", edgecolors=MARK, zorder=3,
            label=f"recommended: {best.case}",
        )  # fmt: skip
    axes.set_xlabel("share of the prompt kept, %", color=INK)
    axes.set_ylabel("right, %", color=INK)
    axes.set_ylim(-2, 102)
    axes.tick_params(colors=INK, labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    total = curve.points[0].total
    said = f"{short(model)} on {total} questions of {short(dataset)}"
    title = axes.set_title(said, loc="left", fontsize=10, color=INK)
    title.set_parse_math(False)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    return save(figure, form, dpi)
