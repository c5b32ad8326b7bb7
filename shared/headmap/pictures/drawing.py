"""Shared by all pictures: colours, names of bounded length, and reproducible bytes."""

from __future__ import annotations

import io
import re
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

PictureForm = Literal["svg", "png"]

INK = "#222222"
MARK = "#d62728"

_MAX_NAME = 48
_NO_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that are invalid in XML (XML 1.0, section 2.2)."""


def save(figure: Figure, form: PictureForm, dpi: int) -> bytes:
    """Save a figure as SVG or PNG. The same figure gives the same bytes. It is thread-safe: no pyplot, no state."""
    matplotlib.rcParams["svg.hashsalt"] = "headmap"  # otherwise element ids are random
    buffer = io.BytesIO()
    canvas = FigureCanvasSVG(figure) if form == "svg" else FigureCanvasAgg(figure)
    metadata: dict[str, Any] = {"Creator": "headmap", "Date": None} if form == "svg" else {"Software": "headmap"}
    canvas.print_figure(buffer, format=form, dpi=dpi, metadata=metadata, facecolor="white", bbox_inches="tight")
    return buffer.getvalue()


def entitle(axes: Axes, title: str, note: str, *, colour: str = INK) -> None:
    """Write a title above the left end of the axes, and a note in small letters of that colour between both."""
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK, pad=20, parse_math=False)
    axes.annotate(
        note, (0, 1), xytext=(0, 6), xycoords="axes fraction", textcoords="offset points", fontsize=8.5, color=colour
    )


def short(name: str) -> str:
    """Shorten a model's name for a picture. It cuts the start of a long name and replaces invalid XML by U+FFFD.

    Draw the name with `parse_math=False`, because a $ would start a formula.
    """
    name = _NO_XML.sub("\N{REPLACEMENT CHARACTER}", name)
    return name if len(name) <= _MAX_NAME else f"...{name[3 - _MAX_NAME :]}"
