"""Tables: towns down, years across, numbers in the cells; ruled, striped or bare."""

from __future__ import annotations

from headmap.datasets.made_up import effects
from headmap.datasets.made_up.canvas import Canvas, Colour, Placement, Style
from headmap.datasets.made_up.fonts import TYPEFACES
from headmap.datasets.made_up.languages import pick_language
from headmap.scoring.pages import MAX_QUESTIONS, Draw, Page, Question

_ACCENTS: tuple[Colour, ...] = ((214, 226, 240), (226, 236, 214), (242, 228, 206), (228, 228, 228), (236, 216, 222))


def make_table(seed: int, index: int) -> Page:
    """Draw table `index` of the series `seed`."""
    stream = f"tables/{seed}/{index}"
    draw = Draw(stream)
    language = pick_language(draw)
    typeface = draw.choice([one for one in TYPEFACES if one.writes(language.text)])
    size, shade = draw.integer(15, 19), draw.integer(10, 50)
    body = Style(typeface.upright, size, (shade, shade, shade))
    head, title_style = Style(typeface.bold, size, body.colour), Style(typeface.bold, size * 7 // 5, body.colour)

    towns = draw.sample(language.towns, draw.integer(4, min(7, len(language.towns))))
    first = draw.integer(1998, 2022)
    years = [str(first + step) for step in range(draw.integer(3, 5))]
    numbers = [[draw.integer(10, 9999) for _ in years] for _ in towns]
    decimals = draw.integer(0, 2) == 0
    cells = [[f"{number / 10:.1f}" if decimals else str(number) for number in row] for row in numbers]
    sums = [sum(column) for column in zip(*numbers, strict=True)]
    last = [f"{total / 10:.1f}" if decimals else str(total) for total in sums]

    canvas = Canvas(1, 1)
    margin, row = draw.integer(28, 52), size * draw.integer(17, 22) // 10
    corner, foot = language.labels["region"], language.labels["sums"]
    label_width = max(canvas.width_of(text, head) for text in [*towns, corner, foot]) + 2 * size
    cell_width = max(canvas.width_of(text, head) for text in [*years, *last, "9999"]) + 2 * size
    title = draw.choice(language.tables)
    table_width = label_width + cell_width * len(years)
    width = 2 * margin + max(table_width, canvas.width_of(title, title_style))
    top = margin + 3 * size
    height = top + row * (len(towns) + 2) + margin

    canvas = Canvas(width, height)
    canvas.placement = Placement.turned(draw.integer(-4, 4), (width // 2, height // 2))
    accent, style = draw.choice(_ACCENTS), draw.choice(["ruled", "striped", "bare"])
    canvas.fill(margin, top, margin + table_width, top + row, accent)
    lines = [[corner, *years], *([town, *values] for town, values in zip(towns, cells, strict=True)), [foot, *last]]
    if style == "striped":
        for number in range(2, len(lines) - 1, 2):
            canvas.fill(margin, top + number * row, margin + table_width, top + (number + 1) * row, accent)
    if style == "ruled":
        for number in range(len(lines)):
            canvas.frame(margin, top + number * row, margin + label_width, top + (number + 1) * row, body.colour)
            for column in range(len(years)):
                x = margin + label_width + column * cell_width
                canvas.frame(x - 1, top + number * row, x + cell_width, top + (number + 1) * row, body.colour)
    else:
        y = top + row * (len(lines) - 1)
        canvas.fill(margin, y, margin + table_width, y + 1, body.colour)
    canvas.write(title, margin, margin + size, title_style)
    for number, line in enumerate(lines):
        y = top + number * row + (row + size * 7 // 10) // 2
        written = head if number in (0, len(lines) - 1) else body
        canvas.write(line[0], margin + size, y, written)
        for column, text in enumerate(line[1:], start=1):
            canvas.write_right(text, margin + label_width + column * cell_width - size, y, written)

    paper = draw.integer(232, 252)
    pixels = effects.light(draw, canvas.paint(effects.plain(width, height, (paper,) * 3)), draw.integer(4, 26))
    pixels = effects.noise(stream, effects.soften(pixels, draw.integer(0, 2)), draw.integer(1, 5))
    places = draw.sample([(row, column) for row in range(len(towns)) for column in range(len(years))], MAX_QUESTIONS)
    questions = [Question(f"What is the value of {towns[r]} in {years[c]}?", cells[r][c]) for r, c in places]
    return canvas.page(pixels, questions)
