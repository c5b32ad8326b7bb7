"""Head scores as a picture: layers down, heads across, the heads that score highest outlined."""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.collections import PatchCollection
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from headmap.drawing import INK, MARK, PictureForm, save, short
from headmap.head_scores import HeadScores

TOP_SHARE = 0.05


@dataclass(frozen=True)
class Picture:
    """What the title says beside the scores."""

    model: str
    version: int | None = None
    pages: int | None = None


def draw(scores: HeadScores, picture: Picture, form: PictureForm = "svg", *, dpi: int = 144) -> bytes:
    """The picture's bytes; the same scores and title give the same bytes.

    Colours are the share of the whole score in percent, by square root, so that heads far below the peak still show.
    """
    return save(_figure(scores, picture), form, dpi)


def _figure(scores: HeadScores, picture: Picture) -> Figure:
    layers, heads = scores.num_layers, scores.num_heads
    cell = min(0.45, 9.0 / max(layers, heads))
    figure = Figure(figsize=(max(4.5, heads * cell) + 1.6, max(3.0, layers * cell) + 1.5), layout="constrained")
    axes = figure.add_subplot()
    percent = scores.matrix * 100
    image = axes.imshow(
        percent,
        cmap="viridis",
        norm=PowerNorm(0.5, vmin=0, vmax=float(percent.max())),
        aspect="auto",
        interpolation="nearest",
    )
    marks = [Rectangle((head - 0.5, layer - 0.5), 1, 1) for layer, head in scores.top_heads(TOP_SHARE)]
    axes.add_collection(PatchCollection(marks, facecolor="none", edgecolor=MARK, linewidth=1.6))
    axes.set_xlabel("attention head", color=INK)
    axes.set_ylabel("layer", color=INK)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(nbins=16, integer=True, min_n_ticks=1))
    axes.tick_params(length=0, colors=INK, labelsize=8)
    for spine in axes.spines.values():
        spine.set_visible(False)
    bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02)
    bar.set_label("share of the score, %", color=INK)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=2, colors=INK, labelsize=8)
    # a model's name may hold a $, which would start a formula
    axes.set_title(_title(picture), loc="left", fontsize=11, fontweight="bold", color=INK, pad=20, parse_math=False)
    axes.annotate(
        f"outlined: top {TOP_SHARE:.0%} of heads ({len(marks)}), {scores.top_share(TOP_SHARE):.0%} of the score",
        (0, 1),
        xytext=(0, 6),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=8.5,
        color=MARK,
    )
    return figure


def _title(picture: Picture) -> str:
    parts = [f"Visual heads of {short(picture.model)}"]
    if picture.version is not None:
        parts.append(f"map {picture.version}")
    if picture.pages is not None:
        parts.append(f"{picture.pages:,} page{'' if picture.pages == 1 else 's'}")
    return ", ".join(parts)
