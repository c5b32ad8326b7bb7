"""Draw where one head looked on a page: the words it hit and its visual tokens, with one colour per word."""

from __future__ import annotations

import io
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from headmap.looks import Look, PageLooks
from headmap.pictures.drawing import PictureForm, entitle, save, short

# Tableau's ten colours without grey: most people can distinguish them, on paper of any tint
_COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#bcbd22", "#17becf")
_ELSEWHERE = "#6e6e6e"
_DIM = 0.3
"""How much the page fades to white, so that drawings on it are visible."""


@dataclass(frozen=True)
class Caption:
    """The information in the title: the map, the head and the page number."""

    model: str
    version: int
    layer: int
    head: int
    page: int


def draw_overlay(looks: PageLooks, caption: Caption, form: PictureForm = "png", *, dpi: int = 144) -> bytes:
    """Draw the picture and return its bytes. Raises IndexError if the model does not have the head.

    Each word that the head hit is framed. The cells that the head looked at for this word's tokens are filled; a cell
    is darker if more tokens looked at it. Grey cells are cells that the head looked at for words elsewhere.
    """
    found = looks.of_head(caption.layer, caption.head)
    scale = 8.0 / max(looks.width, looks.height)
    width = max(looks.width * scale, 5.5)
    figure = Figure(figsize=(width + 0.3, looks.height * scale + 1.1), layout="constrained")
    axes = figure.add_subplot()
    picture = Image.open(io.BytesIO(looks.picture)).convert("RGB")
    faded = Image.blend(picture, Image.new("RGB", picture.size, "white"), _DIM)
    axes.imshow(faded, extent=(0, looks.width, looks.height, 0), interpolation="antialiased")
    _draw_looks(axes, looks, found)
    axes.set_axis_off()
    axes.set_xlim(0, looks.width)
    axes.set_ylim(looks.height, 0)
    hits = [look for look in found if look.hit]
    title = f"Layer {caption.layer}, head {caption.head} of {short(caption.model)}, map {caption.version}"
    words = len({look.word for look in hits})
    note = (
        f"page {caption.page}: looked at the word being written for {len(hits)} of {len(found)} tokens, "
        f"at {words} of {len(looks.words)} words"
    )
    entitle(axes, title, note)
    figure.legend(
        handles=[
            Patch(facecolor="none", edgecolor=_COLOURS[0], linewidth=1.4, label="word it hit"),
            Patch(facecolor=_COLOURS[0], alpha=0.55, label="where it looked for that word"),
            Patch(facecolor=_ELSEWHERE, alpha=0.45, label="looked there for another word"),
        ],
        loc="outside lower left",
        ncols=3,
        frameon=False,
        fontsize=8,
    )
    return save(figure, form, dpi)


def _draw_looks(axes: Axes, looks: PageLooks, found: list[Look]) -> None:
    hit_words = sorted({look.word for look in found if look.hit})
    colours = {word: _COLOURS[place % len(_COLOURS)] for place, word in enumerate(hit_words)}
    cells = [(look.cell, look) for look in found if look.cell is not None]
    fills = [to_rgba(colours[look.word], 0.35) if look.hit else to_rgba(_ELSEWHERE, 0.25) for _, look in cells]
    # One collection each, because a page may have tens of thousands of looks.
    axes.add_collection(PolyCollection([_corners(cell) for cell, _ in cells], facecolors=fills, linewidths=0))
    frames = [_corners(looks.words[word][1]) for word in colours]
    axes.add_collection(
        PolyCollection(frames, facecolors="none", edgecolors=list(colours.values()), linewidths=1.4, zorder=2)
    )


def _corners(box: tuple[float, float, float, float]) -> list[tuple[float, float]]:
    x0, y0, x1, y1 = box
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
