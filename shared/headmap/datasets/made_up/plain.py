"""Plain pages: English forms, receipts and notes on a grid, with one character per 16 x 16 px cell, as on `make_page`.

A model with a small vision tower reads them, since each visual token of 16 px holds one whole character. Sizes are from
300 to 1,500 cells.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from importlib.resources import files

from headmap.scoring.pages import (
    CELL,
    CHARACTERS,
    LETTERS,
    MAX_QUESTIONS,
    Draw,
    Page,
    Question,
    Word,
    render_cells,
)

_WORDS: dict[str, list[str]] = json.loads(files(__package__).joinpath("plain_words.json").read_text(encoding="utf-8"))
"""English and ASCII."""

SMALL, LARGE, LONG = (300, 500), (900, 1500), (1000, 1100)
"""Fewest and most cells of a page."""


def make_long_page(seed: int, index: int) -> Page:
    """Draw page `index` of the series `seed`: `KEY:VALUE` lines on a page of about 1,000 cells."""
    return draw_lookups(f"long/{int(seed)}/{int(index)}", (20, 36), LONG)


def make_plain_form(seed: int, index: int) -> Page:
    """Draw form `index` of the series `seed`: labels, values, and questions for values."""
    return draw_form(f"plain-forms/{int(seed)}/{int(index)}")


def make_plain_receipt(seed: int, index: int) -> Page:
    """Draw receipt `index` of the series `seed`: goods, prices, a sum that adds up, and questions about them."""
    return draw_receipt(f"plain-receipts/{int(seed)}/{int(index)}")


def make_plain_note(seed: int, index: int) -> Page:
    """Draw note `index` of the series `seed`: lines of words, and questions for their number and for single lines."""
    return draw_note(f"plain-notes/{int(seed)}/{int(index)}")


def draw_lookups(stream: str, lines: tuple[int, int], size: tuple[int, int]) -> Page:
    """Draw `KEY:VALUE` lines of a named stream of random numbers: fewest and most lines, fewest and most cells.

    Keys differ, but unlike those of `make_page` they share pairs of characters.
    """
    draw = Draw(stream)
    entries: dict[str, str] = {}
    count = draw.integer(*lines)
    while len(entries) < count:
        entries.setdefault(draw.string(LETTERS, 3, 4), draw.string(CHARACTERS, 4, 7))
    asked = draw.sample(list(entries), MAX_QUESTIONS)
    questions = [Question(f"What is the value of {key}?", entries[key]) for key in asked]
    return _page(draw, stream, [f"{key}:{value}" for key, value in entries.items()], questions, size)


def draw_form(stream: str, size: tuple[int, int] | None = None) -> Page:
    """Draw the form of a named stream of random numbers, with `size` cells at least and at most."""
    draw = Draw(stream)
    labels = draw.sample(list(_FIELDS), draw.integer(6, 11))
    fields = [(label, _FIELDS[label](draw)) for label in labels]
    asked = draw.sample(fields, MAX_QUESTIONS)
    questions = [Question(f"What is the {label.lower()}?", value) for label, value in asked]
    return _page(draw, stream, [f"{label}: {value}" for label, value in fields], questions, size)


def draw_receipt(stream: str, size: tuple[int, int] | None = None) -> Page:
    """Draw the receipt of a named stream of random numbers, with `size` cells at least and at most."""
    draw = Draw(stream)
    goods = [(name, draw.integer(49, 2999)) for name in draw.sample(_WORDS["goods"], draw.integer(4, 8))]
    shop, day = _word(draw, "shops"), _date(draw)
    total = sum(price for _, price in goods)
    width = max(16, *(len(name) + 8 for name, _ in goods))
    rows = [(name, _money(price)) for name, price in goods]
    lines = [shop, day, *(name + value.rjust(width - len(name)) for name, value in (*rows, ("Total", _money(total))))]
    about = [Question(f"How much is the {name.lower()}?", value) for name, value in draw.sample(rows, 2)]
    about += [Question("What is the total?", _money(total))]
    about += [draw.choice([Question("What is the name of the shop?", shop), Question("What is the date?", day)])]
    return _page(draw, stream, lines, about, size)


def draw_note(stream: str, size: tuple[int, int] | None = None) -> Page:
    """Draw the note of a named stream of random numbers, with `size` cells at least and at most."""
    draw = Draw(stream)
    lines = [" ".join(draw.sample(_WORDS["note_words"], draw.integer(2, 3))) for _ in range(draw.integer(4, 12))]
    questions = [
        Question("How many lines of text are there?", str(len(lines))),
        Question("What does the first line say?", lines[0]),
        Question("What does the last line say?", lines[-1]),
    ]
    return _page(draw, stream, lines, questions, size)


def _page(
    draw: Draw, stream: str, lines: Sequence[str], questions: Sequence[Question], size: tuple[int, int] | None
) -> Page:
    fewest, most = size or draw.choice((SMALL, SMALL, LARGE))
    widest = max(map(len, lines))
    while True:
        pitch = draw.integer(1, 3)
        top, bottom, left, right = draw.integer(0, 8), draw.integer(0, 8), draw.integer(0, 12), draw.integer(1, 12)
        rows, cols = top + (len(lines) - 1) * pitch + 1 + bottom, left + widest + right
        if fewest <= rows * cols <= most:
            break
    places = [(top + number * pitch, left) for number in range(len(lines))]
    image = render_cells(draw, (rows, cols), lines, places, stream)
    words = tuple(word for line, (row, col) in zip(lines, places, strict=True) for word in _words(line, row, col))
    return Page(image, words, tuple(questions))


def _words(line: str, row: int, col: int) -> list[Word]:
    words, at = [], 0
    for piece in line.split():
        at = line.index(piece, at)
        left, right = (col + at) * CELL, (col + at + len(piece)) * CELL
        words.append(Word(piece, (left + 1, row * CELL + 1, right - 1, (row + 1) * CELL - 1)))
        at += len(piece)
    return words


def _money(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02d}"


def _date(draw: Draw) -> str:
    return f"{draw.integer(1990, 2030)}-{draw.integer(1, 12):02d}-{draw.integer(1, 28):02d}"


def _word(draw: Draw, kind: str) -> str:
    return draw.choice(_WORDS[kind])


def _name(draw: Draw) -> str:
    return f"{draw.choice(_WORDS['first_names'])} {draw.choice(_WORDS['last_names'])}"


def _email(draw: Draw) -> str:
    return f"{_word(draw, 'first_names')}@{_word(draw, 'companies').split()[0]}.com".lower()


def _digits(draw: Draw, count: int) -> str:
    return draw.string("0123456789", count, count)


_FIELDS: dict[str, Callable[[Draw], str]] = {
    "Name": _name,
    "Manager": _name,
    "Doctor": _name,
    "Date": _date,
    "Birth date": _date,
    "Due date": _date,
    "City": lambda draw: _word(draw, "cities"),
    "Address": lambda draw: f"{draw.integer(1, 199)} {draw.choice(_WORDS['streets'])}",
    "Phone": lambda draw: f"{_digits(draw, 3)}-{_digits(draw, 4)}",
    "Company": lambda draw: _word(draw, "companies"),
    "Department": lambda draw: _word(draw, "departments"),
    "Status": lambda draw: _word(draw, "states"),
    "Amount": lambda draw: f"${_money(draw.integer(100, 99999))}",
    "Price": lambda draw: f"${_money(draw.integer(100, 9999))}",
    "Tax": lambda draw: f"{draw.integer(1, 25)}%",
    "Age": lambda draw: str(draw.integer(18, 90)),
    "Room": lambda draw: f"{draw.choice(LETTERS)}{draw.integer(1, 420)}",
    "Invoice number": lambda draw: f"INV-{_digits(draw, 5)}",
    "Order number": lambda draw: _digits(draw, 6),
    "Account": lambda draw: f"{draw.string(LETTERS, 2, 2)}{_digits(draw, 6)}",
    "Quantity": lambda draw: str(draw.integer(1, 500)),
    "Email": lambda draw: (
        f"{draw.choice(_WORDS['first_names']).lower()}@{draw.choice(_WORDS['companies']).split()[0].lower()}.com"
    ),
    "Weight": lambda draw: f"{draw.integer(1, 99)}.{draw.integer(0, 9)} kg",
    "Time": lambda draw: f"{draw.integer(0, 23):02d}:{draw.integer(0, 59):02d}",
}
"""How the value of each label is drawn."""
