"""Documents: reports and letters in running text, in one column or two, as a scanner sees them."""

from __future__ import annotations

from headmap.datasets.made_up import effects
from headmap.datasets.made_up.canvas import Canvas, Placement, Style
from headmap.datasets.made_up.fonts import TYPEFACES
from headmap.datasets.made_up.languages import Language, code, date, person, pick_language, sentence
from headmap.scoring.pages import Draw, Page, Question


def make_document(seed: int, index: int) -> Page:
    """Draw document `index` of the series `seed`."""
    stream = f"documents/{seed}/{index}"
    draw = Draw(stream)
    language = pick_language(draw)
    typeface = draw.choice([one for one in TYPEFACES if one.writes(language.text)])
    width, height = draw.integer(620, 840), draw.integer(760, 1080)
    margin, size = draw.integer(44, 72), draw.integer(15, 19)
    shade = draw.integer(8, 60)
    body = Style(typeface.upright, size, (shade, shade, shade + draw.integer(0, 20)))
    bold, italic = Style(typeface.bold, size, body.colour), Style(typeface.italic, size, body.colour)
    canvas = Canvas(width, height)
    canvas.placement = Placement.turned(draw.integer(-5, 5), (width // 2, height // 2))

    reference, day, author = code(draw), date(draw), person(draw, language)
    title = f"{draw.choice(language.reports)} {draw.choice(language.nouns)}"
    labels = language.labels
    y = margin + size
    canvas.write(f"{labels['reference']}: {reference}", margin, y, body)
    canvas.write_right(day, width - margin, y, body)
    y += 3 * size
    heading = bold.sized(size * draw.integer(16, 20) // 10)
    y = flow(canvas, title.split(), margin, y, width - 2 * margin, heading, height)
    canvas.write(f"{labels['author']} {author}", margin, y, italic)
    y += size
    if draw.integer(0, 1):
        canvas.fill(margin, y, width - margin, y + draw.integer(1, 2), body.colour)
    y += size + size // 2

    bottom = height - margin - 2 * size
    columns = draw.integer(1, 2)
    gap = 2 * size
    column = (width - 2 * margin - (columns - 1) * gap) // columns
    for number in range(columns):
        _column(draw, canvas, language, (margin + number * (column + gap), y, column, bottom), body, bold)
    canvas.write_centred(f"{draw.integer(1, 60)}", width // 2, height - margin, body)

    paper = draw.integer(225, 250)
    pixels = canvas.paint(effects.plain(width, height, (paper, paper, paper - draw.integer(0, 14))))
    pixels = effects.soften(effects.light(draw, pixels, draw.integer(4, 30)), draw.integer(0, 2))
    return canvas.page(
        effects.noise(stream, pixels, draw.integer(1, 5)),
        [
            Question("What is the title of this document?", title),
            Question("Who is the author of this document?", author),
            Question("What is the reference of this document?", reference),
            Question("What is the date of this document?", day),
        ],
    )


def flow(canvas: Canvas, words: list[str], x: int, y: int, width: int, style: Style, bottom: int) -> int:
    """Write words in lines of at most `width` from the baseline `y` down to `bottom`; returns the next baseline."""
    line: list[str] = []
    pitch = style.size * 7 // 5
    for word in [*words, ""]:
        if line and (not word or canvas.width_of(" ".join([*line, word]), style) > width):
            if y > bottom:
                break
            canvas.write(" ".join(line), x, y, style)
            y += pitch
            line = []
        if word:
            line.append(word)
    return y


def _column(
    draw: Draw, canvas: Canvas, language: Language, box: tuple[int, int, int, int], body: Style, bold: Style
) -> None:
    """Paragraphs, some under a heading, down one column; `box`: left, first baseline, width, last baseline."""
    x, y, width, bottom = box
    section = 0
    while y + 2 * body.size < bottom:
        if draw.integer(0, 2) == 0:
            section += 1
            y = flow(canvas, [f"{section}.", draw.choice(language.nouns)], x, y, width, bold, bottom)
        words = [word for _ in range(draw.integer(2, 4)) for word in sentence(draw, language)]
        y = flow(canvas, words, x, y, width, body, bottom) + body.size // 2
