"""One line of `pages.jsonl`: a page's picture file, its size, words and questions, checked field by field."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeVar

from headmap.datasets.limits import MAX_PAGES
from headmap.errors import InvalidDataset, shown
from headmap.scoring.page import Page, Question, Word

INDEX_FILE = "pages.jsonl"
MAX_TEXT = 1000
"""Characters of a word, a question or an answer."""
MAX_WORDS = 10_000
MAX_QUESTIONS = 1000
MAX_LINE_BYTES = 4 * 2**20
"""As many words as a page may have, of 400 bytes each. Parsed, a line takes up to forty times its bytes."""

T = TypeVar("T")


@dataclass(frozen=True)
class PageRecord:
    """A page without its picture; boxes lie within `width` x `height`, in pixels."""

    file: str
    width: int
    height: int
    words: tuple[Word, ...]
    questions: tuple[Question, ...]

    @classmethod
    def of(cls, page: Page, file: str) -> PageRecord:
        return cls(file, page.image.width, page.image.height, page.words, page.questions)

    def to_json(self) -> str:
        """The line of `pages.jsonl`, without its end; `parse_record` reads it back."""
        fields = {
            "file": self.file,
            "width": self.width,
            "height": self.height,
            "words": [{"text": word.text, "box": list(word.box)} for word in self.words],
            "questions": [{"question": one.question, "answer": one.answer} for one in self.questions],
        }
        return json.dumps(fields, ensure_ascii=False)


def read_records(file: BinaryIO, name: str) -> Iterator[tuple[str, PageRecord]]:
    """Yield each record of an index and its place, which begins with `name`. Blank lines count only as lines.

    Raises InvalidDataset as parse_record does, and for more than MAX_PAGES pages, twice as many lines, a line of more
    than MAX_LINE_BYTES and bytes that are not UTF-8.
    """
    number = pages = 0
    while line := file.readline(MAX_LINE_BYTES + 2):
        number += 1
        where = f"{name}, line {number}"
        if number > 2 * MAX_PAGES:
            raise InvalidDataset(f"{where}: more than {2 * MAX_PAGES} lines")
        if len(line.rstrip(b"\r\n")) > MAX_LINE_BYTES:
            raise InvalidDataset(f"{where}: more than {MAX_LINE_BYTES} bytes")
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise InvalidDataset(f"{where}: not UTF-8 ({error})") from error
        if text.strip():
            pages += 1
            if pages > MAX_PAGES:
                raise InvalidDataset(f"{where}: more than {MAX_PAGES} pages")
            yield where, parse_record(text, where)


def parse_record(line: str, where: str) -> PageRecord:
    """Read one line. Raises InvalidDataset, which begins with `where` and names the field that is missing or wrong."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidDataset(f"{where}: not JSON ({error})") from error
    name = _text(record, "file", where)
    if any(separator in name for separator in "/\\") or name in (".", "..", INDEX_FILE):
        raise InvalidDataset(f"{where}: field 'file' must be a plain file name, not {shown(name)}")
    size = (_side(record, "width", where), _side(record, "height", where))
    words = tuple(
        Word(_text(word, "text", place), _box(word, size, place))
        for place, word in _items(record, "words", MAX_WORDS, where)
    )
    questions = tuple(
        Question(_text(one, "question", place), _text(one, "answer", place))
        for place, one in _items(record, "questions", MAX_QUESTIONS, where)
    )
    return PageRecord(name, *size, words, questions)


def _items(record: Any, name: str, most: int, where: str) -> list[tuple[str, Any]]:
    items = _field(record, name, list, where)
    if len(items) > most:
        raise InvalidDataset(f"{where}: field '{name}' must hold at most {most} items, not {len(items)}")
    return [(f"{where}, {name}[{number}]", item) for number, item in enumerate(items)]


def _field(record: Any, name: str, kind: type[T], where: str) -> T:
    if not isinstance(record, dict):
        raise InvalidDataset(f"{where}: must be an object, not {type(record).__name__}")
    if name not in record:
        raise InvalidDataset(f"{where}: field '{name}' is missing")
    value = record[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise InvalidDataset(f"{where}: field '{name}' must be of type {kind.__name__}, not {type(value).__name__}")
    return value


def _text(record: Any, name: str, where: str) -> str:
    """A text with visible characters. Line breaks, NUL and half surrogate pairs are refused, as no page shows them."""
    text = _field(record, name, str, where)
    if not text.strip() or len(text) > MAX_TEXT:
        raise InvalidDataset(f"{where}: field '{name}' must have 1 to {MAX_TEXT} characters, not {shown(text)}")
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in text):
        raise InvalidDataset(f"{where}: field '{name}' must be of printable characters, not {shown(text)}")
    return text


def _side(record: Any, name: str, where: str) -> int:
    side = _field(record, name, int, where)
    if side < 1:
        raise InvalidDataset(f"{where}: field '{name}' must be at least 1, not {shown(side)}")
    return side


def _box(record: Any, size: tuple[int, int], where: str) -> tuple[int, int, int, int]:
    box = _field(record, "box", list, where)
    if len(box) != 4 or not all(isinstance(side, int) and not isinstance(side, bool) for side in box):
        raise InvalidDataset(f"{where}: field 'box' must hold four whole numbers, not {shown(box)}")
    x0, y0, x1, y1 = box
    if not (0 <= x0 < x1 <= size[0] and 0 <= y0 < y1 <= size[1]):
        raise InvalidDataset(
            f"{where}: field 'box' must lie inside the page of {size[0]} x {size[1]} px, not {shown(box)}"
        )
    return x0, y0, x1, y1
