"""Receipts: narrow paper on a dark table, goods and prices, a sum that adds up."""

from __future__ import annotations

from headmap.datasets.made_up import effects
from headmap.datasets.made_up.canvas import Canvas, Colour, Placement, Style, dimmed
from headmap.datasets.made_up.fonts import MONOSPACED, TYPEFACES
from headmap.datasets.made_up.languages import code, date, pick_language
from headmap.scoring.pages import Draw, Page, Question

_TABLES: tuple[Colour, ...] = ((92, 64, 44), (58, 62, 70), (110, 104, 96), (40, 54, 48))


def make_receipt(seed: int, index: int) -> Page:
    """Draw receipt `index` of the series `seed`."""
    stream = f"receipts/{seed}/{index}"
    draw = Draw(stream)
    language = pick_language(draw)
    labels = language.labels
    faces = [one for one in (*MONOSPACED, *MONOSPACED, *TYPEFACES) if one.writes(language.text)]
    typeface = draw.choice(faces)
    size, shade = draw.integer(16, 20), draw.integer(20, 80)
    body = Style(typeface.upright, size, (shade, shade, shade + draw.integer(0, 30)))
    bold = Style(typeface.bold, size, body.colour)

    goods = [
        (name, draw.integer(1, 3), draw.integer(49, 1999)) for name in draw.sample(language.items, draw.integer(3, 8))
    ]
    subtotal = sum(count * price for _, count, price in goods)
    tax = subtotal * draw.choice([5, 7, 10, 19, 20]) // 100
    total = subtotal + tax
    paid = -(-total // 500) * 500
    rows = [(f"{count} {name}" if count > 1 else name, _money(count * price)) for name, count, price in goods]
    sums = [(labels["subtotal"], _money(subtotal)), (labels["tax"], _money(tax))]
    change = [(labels["cash"], _money(paid)), (labels["change"], _money(paid - total))]

    shop, number, day = draw.choice(language.shops), code(draw), date(draw)
    hour = f"{draw.integer(7, 21):02d}:{draw.integer(0, 59):02d}"
    street = f"{draw.choice(language.streets)} {draw.integer(1, 180)}"
    measure = Canvas(1, 1)
    heading = bold.sized(size * 3 // 2)
    widest = [measure.width_of(f"{name} {price}", bold) + 3 * size for name, price in (*rows, *sums, *change)]
    centred = [f"{labels['receipt']} {number}", street, labels["thanks"], f"{day} {hour}"]
    widest += [measure.width_of(shop, heading), *(measure.width_of(text, body) for text in centred)]
    inner, edge, rim = max(widest), draw.integer(18, 30), draw.integer(24, 70)
    pitch = size * 7 // 5
    length = pitch * (len(rows) + len(sums) + len(change) + 11) + 2 * edge
    width, height = inner + 2 * (edge + rim), length + 2 * rim

    canvas = Canvas(width, height)
    canvas.placement = Placement.turned(draw.integer(-18, 18), (width // 2, height // 2), draw.integer(-20, 20))
    left, right, middle = rim + edge, width - rim - edge, width // 2
    white = draw.integer(226, 250)
    canvas.fill(rim + 4, rim + 5, width - rim + 4, height - rim + 5, (24, 22, 20))
    canvas.fill(rim, rim, width - rim, height - rim, (white, white, white - draw.integer(0, 10)))
    y = rim + edge + heading.size
    canvas.write_centred(shop, middle, y, heading)
    for text in (street, f"{labels['receipt']} {number}", f"{day} {hour}"):
        y += pitch
        canvas.write_centred(text, middle, y, body)
    y += pitch

    def rule() -> None:
        for x in range(left, right - 8, 12):
            canvas.fill(x, y - size // 3, x + 7, y - size // 3 + 2, body.colour)

    for block in (rows, sums, [(labels["total"], _money(total))], change):
        rule()
        for name, price in block:
            y += pitch
            style = bold if name == labels["total"] else body
            canvas.write(name, left, y, style)
            canvas.write_right(price, right, y, style)
        y += pitch
    canvas.write_centred(labels["thanks"], middle, y + size // 2, body)

    table = draw.choice(_TABLES)
    background = effects.blend(draw, width, height, table, dimmed(table, 3, 4))
    pixels = effects.light(draw, canvas.paint(background), draw.integer(10, 50))
    pixels = effects.noise(stream, effects.soften(pixels, draw.integer(0, 2)), draw.integer(3, 9))
    good, _, _ = asked = draw.choice(goods)
    return canvas.page(
        pixels,
        [
            Question("What is the total on this receipt?", _money(total)),
            Question(f"How much was paid for {good}?", _money(asked[1] * asked[2])),
            Question("What is the number of this receipt?", number),
            Question("What is the date on this receipt?", day),
        ],
    )


def _money(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02d}"
