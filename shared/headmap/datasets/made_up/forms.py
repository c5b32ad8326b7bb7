"""Forms: printed labels and filled-in values, in boxes or on lines."""

from __future__ import annotations

from headmap.datasets.made_up import effects
from headmap.datasets.made_up.canvas import Canvas, Colour, Placement, Style
from headmap.datasets.made_up.fonts import TYPEFACES
from headmap.datasets.made_up.languages import Language, code, date, person, pick_language
from headmap.scoring.pages import MAX_QUESTIONS, Draw, Page, Question

_INKS: tuple[Colour, ...] = ((24, 40, 130), (20, 20, 20), (12, 70, 60), (90, 20, 60))
_PRINTS: tuple[Colour, ...] = ((30, 30, 30), (60, 90, 130), (110, 60, 40), (40, 100, 70))


def make_form(seed: int, index: int) -> Page:
    """Draw form `index` of the series `seed`."""
    stream = f"forms/{seed}/{index}"
    draw = Draw(stream)
    language = pick_language(draw)
    faces = [one for one in TYPEFACES if one.writes(language.text)]
    print_face, pen_face = draw.choice(faces), draw.choice(faces)
    size = draw.integer(15, 19)
    printed = Style(print_face.upright, size, draw.choice(_PRINTS))
    heading = Style(print_face.bold, size * 3 // 2, printed.colour)
    filled = Style(pen_face.italic, size + draw.integer(1, 4), draw.choice(_INKS), spacing=draw.integer(0, 2))
    entries = _entries(draw, language)
    title, number = draw.choice(language.forms), code(draw)

    margin, boxed, columns = draw.integer(36, 56), draw.integer(0, 1), draw.integer(1, 2)
    row, gap = 4 * size, 2 * size
    longest = max(max(canvas_width(value, filled), canvas_width(label, printed)) for label, value in entries)
    field = longest + 2 * size + draw.integer(0, 60)
    rows = -(-len(entries) // columns)
    width = 2 * margin + columns * field + (columns - 1) * gap
    top = margin + 5 * size
    number_line = f"{language.labels['number']} {number}"
    width = max(width, 2 * margin + max(canvas_width(title, heading), canvas_width(number_line, printed)))
    height = top + rows * row + 5 * size + margin

    canvas = Canvas(width, height)
    canvas.placement = Placement.turned(draw.integer(-4, 4), (width // 2, height // 2))
    if draw.integer(0, 1):
        canvas.frame(margin // 2, margin // 2, width - margin // 2, height - margin // 2, printed.colour, 2)
    canvas.write(title, margin, margin + size, heading)
    canvas.write(number_line, margin, margin + 3 * size, printed)
    for place, (label, value) in enumerate(entries):
        x = margin + place % columns * (field + gap)
        y = top + place // columns * row
        canvas.write(label, x, y, printed)
        if boxed:
            canvas.frame(x, y + size // 2, x + field, y + size * 5 // 2, printed.colour)
        else:
            canvas.fill(x, y + size * 9 // 4, x + field, y + size * 9 // 4 + 1, printed.colour)
        lift = draw.integer(-1, 2)
        canvas.write(value, x + size // 2 + draw.integer(0, size), y + size * 2 - lift, filled)
    y = height - margin - size
    canvas.fill(margin, y - size - 4, margin + field * 2 // 3, y - size - 3, printed.colour)
    canvas.write(language.labels["signature"], margin, y, printed.sized(size - 2))

    paper = draw.integer(228, 250)
    tint = (paper, paper - draw.integer(0, 10), paper - draw.integer(0, 24))
    pixels = effects.light(draw, canvas.paint(effects.plain(width, height, tint)), draw.integer(4, 30))
    pixels = effects.noise(stream, effects.soften(pixels, draw.integer(0, 2)), draw.integer(1, 5))
    asked = draw.sample(entries, min(MAX_QUESTIONS, len(entries)))
    return canvas.page(pixels, [Question(f'What is entered under "{label}"?', value) for label, value in asked])


def canvas_width(text: str, style: Style) -> int:
    return Canvas(1, 1).width_of(text, style)


def _entries(draw: Draw, language: Language) -> list[tuple[str, str]]:
    """Labels and their values, in the form's order; all but the name may be missing."""
    street = f"{draw.choice(language.streets)} {draw.integer(1, 180)}"
    phone = f"{draw.integer(100, 999)} {draw.integer(100, 999)} {draw.integer(1000, 9999)}"
    entries = {
        "name": person(draw, language),
        "born": date(draw),
        "address": street,
        "town": f"{draw.integer(10000, 99999)} {draw.choice(language.towns)}",
        "phone": phone,
        "member": code(draw),
        "date": date(draw),
    }
    shown = [key for key in entries if key == "name" or draw.integer(0, 4) > 0]
    return [(language.labels[key], entries[key]) for key in shown]
