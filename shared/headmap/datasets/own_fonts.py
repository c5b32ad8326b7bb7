"""Pages of a user's own text in a user's own fonts, for scripts that the made-up kinds do not write.

Pillow draws them with its raqm layout: Arabic letters join, Devanagari forms its clusters. Another version of Pillow
may draw other pixels, so no job asks for these pages by a seed: they are written to a folder, which is then added as a
dataset.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont, features

from headmap.errors import InvalidDataset, Unavailable
from headmap.scoring.pages import Draw, Page, Word, right_to_left

FONT_FILES = (".otf", ".ttf")
MARGIN = 40


@dataclass(frozen=True)
class OwnFont:
    path: Path
    characters: frozenset[int]

    def writes(self, text: str) -> bool:
        return all(ord(char) in self.characters for char in text if not char.isspace())


def text_pages(fonts: Path, text: Path, seed: int) -> Callable[[int], Page]:
    """A function that draws page `index` of a series: lines of `text`, each in a font that has its characters.

    Blanks separate words; a line without blanks is one word. Raises InvalidDataset for a folder without fonts and for a
    character that no font has, with its line; Unavailable where Pillow has no raqm layout.
    """
    if not features.check("raqm"):
        raise Unavailable("fonts: this build of Pillow cannot lay out text, because it lacks raqm")
    found = [_read(path) for path in sorted(fonts.iterdir()) if path.suffix.lower() in FONT_FILES]
    lines = [line.split() for line in _lines(text)]
    for number, line in enumerate(map("".join, lines), start=1):
        if not any(font.writes(line) for font in found):
            missing = min(([char for char in line if not font.writes(char)] for font in found), key=len, default=[])
            raise InvalidDataset(
                f"{text.name}, line {number}: no font in {fonts} has all its characters; missing {missing[:5]}"
            )
    lines = [words for words in lines if words]
    if not lines:
        raise InvalidDataset(f"{text.name}: holds no text")
    return lambda index: _page(Draw(f"text/{seed}/{index}"), found, lines)


def _read(path: Path) -> OwnFont:
    try:
        return OwnFont(path, frozenset(TTFont(path, lazy=True).getBestCmap() or ()))
    except Exception as error:  # fontTools fails in many ways on what is no font
        raise InvalidDataset(f"{path}: is not a readable font ({error})") from error


def _lines(text: Path) -> list[str]:
    try:
        return text.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidDataset(f"{text}: cannot be read as UTF-8 ({error})") from error


def _page(draw: Draw, fonts: list[OwnFont], lines: list[list[str]]) -> Page:
    width, paper, ink = draw.integer(640, 900), draw.integer(225, 255), draw.integer(0, 70)
    image = Image.new("RGB", (width, draw.integer(640, 1000)), (paper,) * 3)
    pen, words = ImageDraw.Draw(image), list[Word]()
    y = MARGIN
    while True:
        line, size = draw.choice(lines), draw.integer(20, 34)
        own = draw.choice([font for font in fonts if font.writes("".join(line))])
        font = ImageFont.truetype(own.path, size, layout_engine=ImageFont.Layout.RAQM)
        for row in _rows(line, font, width - 2 * MARGIN):
            if words and y + 2 * size > image.height - MARGIN:
                return Page(image, tuple(words), ())
            words += _write(pen, row, font, y, (ink,) * 3, right_to_left("".join(row)))
            y += 2 * size


def _rows(line: list[str], font: ImageFont.FreeTypeFont, width: int) -> list[list[str]]:
    """The line broken to `width` px; a longer word stands alone and is cut off by the page."""
    rows: list[list[str]] = [[]]
    for word in line:
        if rows[-1] and font.getlength(" ".join([*rows[-1], word])) > width:
            rows.append([])
        rows[-1].append(word)
    return rows


def _write(
    pen: ImageDraw.ImageDraw,
    row: list[str],
    font: ImageFont.FreeTypeFont,
    y: int,
    ink: tuple[int, int, int],
    leftwards: bool,
) -> list[Word]:
    """Write words side by side from the margin where the script begins; returns those with ink on the page."""
    width, height = pen.im.size
    x, found = float(width - MARGIN if leftwards else MARGIN), []
    for text in row:
        length = font.getlength(text)
        x -= length if leftwards else 0
        pen.text((x, y), text, ink, font)
        x0, y0, x1, y1 = pen.textbbox((x, y), text, font)
        box = (max(0, int(x0)), max(0, int(y0)), min(width, -int(-x1 // 1)), min(height, -int(-y1 // 1)))
        if box[0] < box[2] and box[1] < box[3]:
            found.append(Word(text, box))
        x += (-1 if leftwards else 1) * font.size / 2 + (0 if leftwards else length)
    return found
