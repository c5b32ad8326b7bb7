"""Scenes: signs of many sizes, colours and turns in front of walls and sky, as in a street."""

from __future__ import annotations

from headmap.datasets.made_up import effects
from headmap.datasets.made_up.canvas import Canvas, Colour, Placement, Style, dimmed
from headmap.datasets.made_up.fonts import TYPEFACES
from headmap.datasets.made_up.languages import Language, pick_language
from headmap.scoring.pages import MAX_QUESTIONS, Draw, Page, Question

_BOARDS: dict[str, tuple[Colour, Colour]] = {
    "red": ((176, 36, 40), (250, 244, 236)),
    "blue": ((30, 74, 150), (244, 248, 252)),
    "green": ((24, 104, 62), (240, 248, 238)),
    "yellow": ((238, 196, 40), (28, 26, 20)),
    "white": ((240, 238, 232), (36, 36, 44)),
    "black": ((28, 28, 32), (240, 214, 150)),
    "orange": ((226, 116, 36), (34, 22, 14)),
    "purple": ((96, 52, 122), (244, 236, 250)),
}
"""Colour of a board, and of what is written on it."""

_SKIES: tuple[tuple[Colour, Colour], ...] = (
    ((168, 190, 212), (214, 218, 216)),
    ((122, 134, 150), (178, 176, 170)),
    ((214, 190, 168), (168, 160, 168)),
    ((70, 76, 96), (116, 110, 112)),
)


def make_scene(seed: int, index: int) -> Page:
    """Draw scene `index` of the series `seed`."""
    stream = f"scenes/{seed}/{index}"
    draw = Draw(stream)
    language = pick_language(draw)
    width, height = draw.integer(620, 900), draw.integer(520, 760)
    canvas = Canvas(width, height)
    _walls(draw, canvas)
    columns, rows = draw.integer(1, 2), draw.integer(2, 4)
    cells = [(column, row) for row in range(rows) for column in range(columns)]
    boards = draw.sample(list(_BOARDS), min(len(cells), len(_BOARDS)))
    texts = draw.sample(language.signs, len(boards))
    questions = []
    for (column, row), colour, text in zip(cells, boards, texts, strict=False):
        box = (column * width // columns, row * height // rows, width // columns, height // rows)
        written = _sign(draw, canvas, language, box, colour, text)
        questions.append(Question(f"What is written on the {colour} sign?", written))
    canvas.placement = Placement()
    pixels = canvas.paint(effects.blend(draw, width, height, *draw.choice(_SKIES)))
    pixels = effects.light(draw, pixels, draw.integer(20, 90))
    pixels = effects.noise(stream, effects.soften(pixels, draw.integer(0, 3)), draw.integer(4, 14))
    return canvas.page(pixels, questions[:MAX_QUESTIONS])


def _walls(draw: Draw, canvas: Canvas) -> None:
    """Houses: some blocks with rows of windows, in front of the sky."""
    x = 0
    while x < canvas.width:
        wide = draw.integer(120, 320)
        top = draw.integer(canvas.height // 10, canvas.height // 2)
        grey = draw.integer(96, 190)
        wall = (grey + draw.integer(0, 30), grey + draw.integer(-10, 14), grey + draw.integer(-24, 8))
        canvas.fill(x, top, x + wide, canvas.height, wall)
        glass = dimmed(wall, 3, 5)
        step = draw.integer(44, 70)
        for window_y in range(top + 16, canvas.height, step + 14):
            for window_x in range(x + 14, x + wide - 30, step):
                canvas.fill(window_x, window_y, window_x + step // 2, window_y + step * 2 // 3, glass)
        x += wide


def _sign(
    draw: Draw, canvas: Canvas, language: Language, box: tuple[int, int, int, int], colour: str, text: str
) -> str:
    """A turned board with one or two lines, within `box` (left, top, width, height); returns what it says."""
    left, top, wide, high = box
    typeface = draw.choice([one for one in TYPEFACES if one.writes(language.text)])
    board, ink = _BOARDS[colour]
    style = Style(draw.choice([typeface.bold, typeface.bold, typeface.italic]), 200, ink)
    opens = draw.integer(6, 11)
    more = [f"{opens} - {opens + draw.integer(4, 12)} h", str(draw.integer(2, 99))]
    lines = [text, *draw.sample(more, 1)] if draw.integer(0, 2) == 0 else [text]
    slope, slant = draw.integer(-70, 70), draw.integer(-140, 140)
    widest = max(canvas.width_of(line, style) for line in lines)
    largest = min(200 * wide * 6 // 10 // widest, high * 5 // 10 // len(lines), 84)
    style = style.sized(max(15, largest * draw.integer(7, 10) // 10))
    text_width = max(canvas.width_of(line, style) for line in lines)
    pitch = style.size * 6 // 5
    half_width, half_height = text_width // 2 + style.size // 2, (pitch * len(lines) + style.size // 2) // 2
    x, y = (
        left + wide // 2 + draw.integer(-wide // 14, wide // 14),
        top + high // 2 + draw.integer(-high // 16, high // 16),
    )
    canvas.placement = Placement.turned(slope, (x, y), slant)
    canvas.fill(x - half_width - 3, y - half_height - 3, x + half_width + 3, y + half_height + 3, (26, 24, 22))
    canvas.fill(x - half_width, y - half_height, x + half_width, y + half_height, board)
    if draw.integer(0, 1):
        canvas.frame(x - half_width + 4, y - half_height + 4, x + half_width - 4, y + half_height - 4, ink, 2)
    for number, line in enumerate(lines):
        baseline = y - pitch * len(lines) // 2 + number * pitch + pitch // 2 + style.size * 7 // 20
        canvas.write_centred(line, x, baseline, style)
    return " ".join(lines)
