"""Shared by all pictures: ink, names of bounded length, and bytes that are the same each time."""

from __future__ import annotations

import io
import re
from typing import Any, Literal

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

PictureForm = Literal["svg", "png"]

INK = "#222222"
MARK = "#d62728"

_MAX_NAME = 48
_NO_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that no XML document may hold (XML 1.0, section 2.2)."""


def save(figure: Figure, form: PictureForm, dpi: int) -> bytes:
    """A figure as SVG or PNG; the same figure gives the same bytes. Safe in any thread: no pyplot, no state."""
    matplotlib.rcParams["svg.hashsalt"] = "headmap"  # or element ids are random
    buffer = io.BytesIO()
    canvas = FigureCanvasSVG(figure) if form == "svg" else FigureCanvasAgg(figure)
    metadata: dict[str, Any] = {"Creator": "headmap", "Date": None} if form == "svg" else {"Software": "headmap"}
    canvas.print_figure(buffer, format=form, dpi=dpi, metadata=metadata, facecolor="white", bbox_inches="tight")
    return buffer.getvalue()


def short(name: str) -> str:
    """A model's name for a picture: the start of a long one left out, what SVG cannot hold as U+FFFD.

    Draw it with `parse_math=False`: a $ would start a formula.
    """
    name = _NO_XML.sub("\N{REPLACEMENT CHARACTER}", name)
    return name if len(name) <= _MAX_NAME else f"...{name[3 - _MAX_NAME :]}"
