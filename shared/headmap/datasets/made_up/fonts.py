"""Glyph outlines of the fonts that matplotlib carries: DejaVu (Latin, Greek, Cyrillic and more), STIX, Computer Modern.

Outlines are read straight from the font files, in whole font units. No font engine is used, because FreeType's hinting
and smoothing differ between versions. Another edition of a font has another checksum and is refused, so it never draws
other pages under the same seed.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import numpy as np
from fontTools.ttLib import TTFont

from headmap.datasets.made_up.raster import Ints, edges
from headmap.errors import Unavailable

FINE = 16
"""Outline coordinates are in 1/16 of a font unit, for the points of curves."""

_CURVE_STEPS = 4

_MATPLOTLIB = find_spec("matplotlib")
FOLDER = Path(_MATPLOTLIB.origin or "" if _MATPLOTLIB else "").parent / "mpl-data" / "fonts" / "ttf"
"""Found without importing matplotlib."""

CHECKSUMS = {
    "DejaVuSans.ttf": "3fdf69cabf06049e",
    "DejaVuSans-Bold.ttf": "b184b89e3c1075f2",
    "DejaVuSans-Oblique.ttf": "ccdf74b350f11fd3",
    "DejaVuSansMono.ttf": "602ec86b8948cfcd",
    "DejaVuSansMono-Bold.ttf": "baada9a5172fe208",
    "DejaVuSerif.ttf": "107244956e9962b9",
    "DejaVuSerif-Bold.ttf": "c3753f2ed6bc673f",
    "DejaVuSerif-Italic.ttf": "3e7994fbc54fa10c",
    "STIXGeneral.ttf": "167378031e2dddc6",
    "STIXGeneralBol.ttf": "e8533dc7083fa346",
    "STIXGeneralItalic.ttf": "6cfcb333d22b7c3c",
    "cmr10.ttf": "4dd9761b058c009d",
    "cmss10.ttf": "7df91a83d05b2e47",
    "cmtt10.ttf": "6211f09ae9359999",
}
"""Font file -> the first 16 hex digits of its SHA-256."""

# fontTools warns of the creation date in the Computer Modern files.
logging.getLogger("fontTools.ttLib.tables._h_e_a_d").setLevel(logging.ERROR)


class Face:
    """One font: outlines and widths by character. Raises Unavailable for a file without the checksum it must have."""

    def __init__(self, path: Path, checksum: str) -> None:
        data = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(data).hexdigest()[:16] != checksum:
            raise Unavailable(f"made-up pages need the {path.name} of matplotlib 3.10 or 3.11; {path} differs from it")
        font = TTFont(BytesIO(data), lazy=True)
        self.units: int = font["head"].unitsPerEm
        self._names: dict[int, str] = font.getBestCmap()
        self._glyphs = font["glyf"]
        self._widths = font["hmtx"]
        self._outlines: dict[str, Ints] = {}

    def has(self, text: str) -> bool:
        """Whether every character but the blank has a glyph."""
        return all(ord(character) in self._names for character in text if character != " ")

    def width(self, character: str) -> int:
        """In font units."""
        name = self._names.get(ord(character))
        return self.units // 3 if name is None else int(self._widths[name][0])

    def outline(self, character: str) -> Ints:
        """Edges (count, 4) in 1/16 font units, y upwards from the baseline. Raises KeyError for a missing character."""
        if character not in self._outlines:
            self._outlines[character] = self._trace(self._names[ord(character)])
        return self._outlines[character]

    def _trace(self, name: str) -> Ints:
        points, ends, flags = self._glyphs[name].getCoordinates(self._glyphs)
        corners = [(int(x * FINE), int(y * FINE)) for x, y in points]
        on_curve = [bool(flag & 1) for flag in flags]
        traced = [np.zeros((0, 4), dtype=np.int64)]
        start = 0
        for end in ends:
            polygon = _flatten(corners[start : end + 1], on_curve[start : end + 1])
            traced.append(edges(np.array(polygon, dtype=np.int64)))
            start = end + 1
        return np.concatenate(traced)


@dataclass(frozen=True)
class Typeface:
    """The files of one design. The upright one replaces a missing bold or italic."""

    upright: str
    bold: str
    italic: str

    def writes(self, text: str) -> bool:
        return all(face(file).has(text) for file in (self.upright, self.bold, self.italic))


TYPEFACES = (
    Typeface("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSans-Oblique.ttf"),
    Typeface("DejaVuSerif.ttf", "DejaVuSerif-Bold.ttf", "DejaVuSerif-Italic.ttf"),
    Typeface("STIXGeneral.ttf", "STIXGeneralBol.ttf", "STIXGeneralItalic.ttf"),
    Typeface("DejaVuSansMono.ttf", "DejaVuSansMono-Bold.ttf", "DejaVuSansMono.ttf"),
    Typeface("cmr10.ttf", "cmr10.ttf", "cmr10.ttf"),
    Typeface("cmss10.ttf", "cmss10.ttf", "cmss10.ttf"),
    Typeface("cmtt10.ttf", "cmtt10.ttf", "cmtt10.ttf"),
)
MONOSPACED = tuple(one for one in TYPEFACES if one.upright in ("DejaVuSansMono.ttf", "cmtt10.ttf"))


@cache
def face(file: str) -> Face:
    """The font of one of the files in CHECKSUMS, read once."""
    return Face(FOLDER / file, CHECKSUMS[file])


def _flatten(corners: list[tuple[int, int]], on_curve: list[bool]) -> list[tuple[int, int]]:
    """A TrueType contour as a polygon: quadratic curves become lines; there is a corner between two control points."""
    path: list[tuple[tuple[int, int], bool]] = []
    for index, (corner, on) in enumerate(zip(corners, on_curve, strict=True)):
        path.append((corner, on))
        after = (index + 1) % len(corners)
        if not on and not on_curve[after]:
            path.append((((corner[0] + corners[after][0]) // 2, (corner[1] + corners[after][1]) // 2), True))
    first = next(index for index, (_, on) in enumerate(path) if on)
    path = path[first:] + path[: first + 1]
    polygon = [path[0][0]]
    for (before, before_on), (point, on) in pairwise(path):
        if on and before_on:
            polygon.append(point)
        elif on:
            polygon.extend(_curve(polygon[-1], before, point))
    return polygon[:-1]


def _curve(start: tuple[int, int], control: tuple[int, int], end: tuple[int, int]) -> Iterator[tuple[int, int]]:
    n = _CURVE_STEPS
    for k in range(1, n + 1):
        a, b, c = (n - k) ** 2, 2 * k * (n - k), k**2
        yield (
            (a * start[0] + b * control[0] + c * end[0]) // n**2,
            (a * start[1] + b * control[1] + c * end[1]) // n**2,
        )
