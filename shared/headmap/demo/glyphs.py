"""Makes `scoring/glyphs.png`. It never runs in use, because pages must not depend on the installed font library.

python -m headmap.demo.glyphs OUT.png
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from headmap.scoring.pages import ATLAS_CHARACTERS, CELL, FONT_SIZES


def draw_atlas() -> Image.Image:
    """Draw every character at every size, centred in its cell on one baseline, with coverage as grey levels."""
    atlas = Image.new("L", (len(ATLAS_CHARACTERS) * CELL, len(FONT_SIZES) * CELL), 0)
    for row, size in enumerate(FONT_SIZES):
        font = ImageFont.load_default(size)
        for col, character in enumerate(ATLAS_CHARACTERS):
            cell = Image.new("L", (CELL, CELL), 0)
            ImageDraw.Draw(cell).text((CELL / 2, CELL - 3), character, fill=255, font=font, anchor="ms")
            atlas.paste(cell, (col * CELL, row * CELL))
    return atlas


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m headmap.demo.glyphs OUT.png")
    draw_atlas().save(Path(sys.argv[1]), optimize=True)
