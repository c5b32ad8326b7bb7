"""A page in the making: text and shapes as outlines, each in its colour, and the boxes of the words among them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PIL import Image

from headmap.datasets.made_up.fonts import FINE, Face, face
from headmap.datasets.made_up.raster import UNIT, Ints, coverage, edges
from headmap.scoring.pages import Page, Question, Word

Colour = tuple[int, int, int]
Pixels = npt.NDArray[np.int32]
"""(height, width, 3), 0 to 255 once `Canvas.page` has clipped them."""

_ONE = 1 << 16


@dataclass(frozen=True)
class Placement:
    """Turns and moves outlines: x' = xx x + xy y + dx, y' = yx x + yy y + dy.

    Factors are in 1/65536, `dx` and `dy` in 1/64 px.
    """

    xx: int = _ONE
    xy: int = 0
    yx: int = 0
    yy: int = _ONE
    dx: int = 0
    dy: int = 0

    @classmethod
    def turned(cls, slope: int, centre: tuple[int, int], slant: int = 0) -> Placement:
        """A turn about `centre` (px) by 2 atan(slope / 1000), clockwise, after a slant of `slant` / 1000.

        Sine and cosine of such an angle are fractions, so that no machine rounds them its own way.
        """
        whole = 1_000_000 + slope * slope
        cos, sin = (1_000_000 - slope * slope) * _ONE // whole, 2000 * slope * _ONE // whole
        turn = cls(cos, slant * cos // 1000 - sin, sin, slant * sin // 1000 + cos)
        x, y = centre[0] * UNIT, centre[1] * UNIT
        return replace(turn, dx=x - ((turn.xx * x + turn.xy * y) // _ONE), dy=y - ((turn.yx * x + turn.yy * y) // _ONE))

    def apply(self, points: Ints) -> Ints:
        """`points`: (..., 2) in 1/64 px."""
        x, y = points[..., 0], points[..., 1]
        return np.stack(
            [
                (self.xx * x + self.xy * y) // _ONE + self.dx,
                (self.yx * x + self.yy * y) // _ONE + self.dy,
            ],
            axis=-1,
        )


@dataclass(frozen=True)
class Style:
    """How text is written; `size` in px per em, `spacing` in px between characters."""

    font: str
    size: int
    colour: Colour = (20, 20, 24)
    spacing: int = 0

    @property
    def face(self) -> Face:
        return face(self.font)

    def sized(self, size: int) -> Style:
        return replace(self, size=size)


def dimmed(colour: Colour, share: int, of: int) -> Colour:
    """A colour at `share` / `of` of its light."""
    red, green, blue = (side * share // of for side in colour)
    return red, green, blue


class Canvas:
    """Collects what is on a page, in px from its top left corner; `placement` applies to later drawing."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.placement = Placement()
        self.words: list[Word] = []
        self._painted: list[tuple[Colour, Ints]] = []
        self._glyphs: dict[tuple[Face, int, str], Ints] = {}

    def write(self, text: str, x: int, y: int, style: Style) -> None:
        """Write a line from `x` on with its baseline at `y`; its words are noted with the boxes of their ink."""
        font = style.face
        left = x * UNIT
        outlines: list[Ints] = []
        written = ""
        for character in f"{text} ":
            if character != " ":
                outlines.append(self._glyph(font, character, left, y * UNIT, style.size))
                written += character
            elif written:
                self._note(written, style.colour, self._placed(np.concatenate(outlines)))
                outlines, written = [], ""
            left += font.width(character) * style.size * UNIT // font.units + style.spacing * UNIT

    def width_of(self, text: str, style: Style) -> int:
        """In px, rounded up."""
        font = style.face
        units = sum(font.width(character) * style.size * UNIT // font.units for character in text)
        return -(-units // UNIT) + style.spacing * len(text)

    def write_right(self, text: str, x: int, y: int, style: Style) -> None:
        """Write a line that ends at `x`."""
        self.write(text, x - self.width_of(text, style), y, style)

    def write_centred(self, text: str, x: int, y: int, style: Style) -> None:
        self.write(text, x - self.width_of(text, style) // 2, y, style)

    def fill(self, x0: int, y0: int, x1: int, y1: int, colour: Colour) -> None:
        """A filled rectangle."""
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], colour)

    def frame(self, x0: int, y0: int, x1: int, y1: int, colour: Colour, thickness: int = 1) -> None:
        """The outline of a rectangle, drawn inwards."""
        t = thickness
        for box in ((x0, y0, x1, y0 + t), (x0, y1 - t, x1, y1), (x0, y0, x0 + t, y1), (x1 - t, y0, x1, y1)):
            self.fill(*box, colour)

    def polygon(self, corners: list[tuple[int, int]], colour: Colour) -> None:
        self._painted.append((colour, self._placed(edges(np.array(corners, dtype=np.int64) * UNIT))))

    def paint(self, background: Pixels) -> Pixels:
        """`background` (height, width, 3) with everything painted on it, in the order it was drawn."""
        pixels = background.copy()
        groups: list[tuple[Colour, list[Ints]]] = []
        for colour, outlines in self._painted:
            if groups and groups[-1][0] == colour:
                groups[-1][1].append(outlines)
            else:
                groups.append((colour, [outlines]))
        for colour, parts in groups:
            outlines = np.concatenate(parts)
            x0, y0, x1, y1 = self._pixels_of(outlines)
            if x0 < x1 and y0 < y1:
                moved = outlines - np.array([x0, y0, x0, y0]) * UNIT
                ink = coverage(moved, y1 - y0, x1 - x0)[..., None]
                part = pixels[y0:y1, x0:x1]
                part[...] = (part * (255 - ink) + np.array(colour, dtype=np.int32) * ink + 127) // 255
        return pixels

    def page(self, pixels: Pixels, questions: list[Question]) -> Page:
        """The page, from the pixels that `paint` and the effects made."""
        image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        return Page(image, tuple(self.words), tuple(questions))

    def _glyph(self, font: Face, character: str, x: int, y: int, size: int) -> Ints:
        key = (font, size, character)
        if key not in self._glyphs:
            flipped = font.outline(character) * np.array([1, -1, 1, -1])
            self._glyphs[key] = flipped * (size * UNIT) // (font.units * FINE)
        return self._glyphs[key] + np.array([x, y, x, y])

    def _placed(self, outlines: Ints) -> Ints:
        return self.placement.apply(outlines.reshape(-1, 2)).reshape(-1, 4)

    def _note(self, text: str, colour: Colour, outlines: Ints) -> None:
        self._painted.append((colour, outlines))
        x0, y0, x1, y1 = self._pixels_of(outlines)
        if x0 >= x1 or y0 >= y1:
            raise ValueError(f"{text!r} lies outside the page")
        self.words.append(Word(text, (x0, y0, x1, y1)))

    def _pixels_of(self, outlines: Ints) -> tuple[int, int, int, int]:
        """The box of all pixels an outline touches, within the page."""
        points = outlines.reshape(-1, 2)
        x0, y0 = (points.min(axis=0) // UNIT).tolist()
        x1, y1 = (-(-points.max(axis=0) // UNIT)).tolist()
        return max(0, x0), max(0, y0), min(self.width, x1), min(self.height, y1)
