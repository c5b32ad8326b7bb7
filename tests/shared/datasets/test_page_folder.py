"""Pages in a folder: written, read back, and refused by file, line and field."""

from __future__ import annotations

import codecs
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from headmap.datasets.page_folder import PageFolder, write_pages
from headmap.errors import InvalidDataset
from headmap.scoring.pages import Page, make_page


def pixels(page: Page) -> bytes:
    return np.asarray(page.image).tobytes()


def test_written_pages_are_read_back(tmp_path: Path) -> None:
    done: list[int] = []
    write_pages(tmp_path / "new", 3, partial(make_page, 5), done.append)
    assert done == [1, 2, 3]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "0000.png",
        "0001.png",
        "0002.png",
        "pages.jsonl",
    ]
    read = list(PageFolder(tmp_path / "new"))
    for index, page in enumerate(read):
        made = make_page(5, index)
        assert pixels(page) == pixels(made)
        assert (page.words, page.questions) == (made.words, made.questions)


def test_the_index_has_the_documented_fields(tmp_path: Path) -> None:
    write_pages(tmp_path, 1, partial(make_page, 5))
    record = json.loads((tmp_path / "pages.jsonl").read_text())
    assert set(record) == {"file", "width", "height", "words", "questions"}
    assert set(record["words"][0]) == {"text", "box"}
    assert set(record["questions"][0]) == {"question", "answer"}


@pytest.mark.parametrize("count", [0, -1])
def test_nothing_to_write_is_refused(tmp_path: Path, count: int) -> None:
    with pytest.raises(ValueError, match="count"):
        write_pages(tmp_path, count, partial(make_page, 0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"file": None}, "line 1: field 'file' must be of type str"),
        ({"file": "../0000.png"}, "plain file name"),
        ({"file": "a\\b.png"}, "plain file name"),
        ({"file": "pages.jsonl"}, "plain file name"),
        ({"file": "a\0.png"}, "printable"),
        ({"file": ".."}, "plain file name"),
        ({"file": "missing.png"}, "cannot read 'missing.png'"),
        ({"width": 9999}, "'width' and 'height' say"),
        ({"width": 0}, "'width' must be at least 1"),
        ({"width": True}, "'width' must be of type int"),
        ({"words": [{"text": "A"}]}, r"words\[0\]: field 'box' is missing"),
        ({"words": [{"text": "A", "box": [0, 0, 9]}]}, "four whole numbers"),
        ({"words": [{"text": "A", "box": [0, 0, 9, 99999]}]}, "inside the page"),
        ({"words": [{"text": "A", "box": [0, 0, 9, 9.5]}]}, "four whole numbers"),
        ({"words": [{"text": "A", "box": [9, 0, 9, 9]}]}, "inside the page"),
        ({"words": [{"text": "A", "box": [-1, 0, 9, 9]}]}, "inside the page"),
        ({"words": [{"text": "A", "box": [0, 0, 9, 10**400]}]}, "inside the page"),
        ({"words": [{"text": " ", "box": [0, 0, 9, 9]}]}, "1 to 1000 characters"),
        ({"words": [{"text": "A" * 1001, "box": [0, 0, 9, 9]}]}, "1 to 1000 characters"),
        ({"words": [{"text": "A\nB", "box": [0, 0, 9, 9]}]}, "printable"),
        ({"words": [{"text": "\ud800", "box": [0, 0, 9, 9]}]}, "printable"),
        ({"words": [{}] * 10_001}, "at most 10000 items"),
        ({"words": ["A"]}, r"words\[0\]: must be an object"),
        ({"questions": [{"question": "Q"}]}, r"questions\[0\]: field 'answer' is missing"),
        ({"questions": {}}, "'questions' must be of type list"),
    ],
)
def test_a_wrong_record_is_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    write_pages(tmp_path, 1, partial(make_page, 0))
    index = tmp_path / "pages.jsonl"
    index.write_text(json.dumps({**json.loads(index.read_text()), **change}) + "\n")
    with pytest.raises(InvalidDataset, match=message):
        list(PageFolder(tmp_path))


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    write_pages(tmp_path, 2, partial(make_page, 0))
    index = tmp_path / "pages.jsonl"
    index.write_bytes(codecs.BOM_UTF8 + index.read_bytes())
    assert PageFolder(tmp_path).size == 2


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    write_pages(tmp_path, 2, partial(make_page, 0))
    index = tmp_path / "pages.jsonl"
    index.write_text(index.read_text().splitlines()[0] + "\n{broken\n")
    with pytest.raises(InvalidDataset, match="line 2: not JSON"):
        PageFolder(tmp_path)


def test_a_folder_without_pages_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataset, match=r"pages\.jsonl: no such file"):
        list(PageFolder(tmp_path))
