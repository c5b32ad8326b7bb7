"""Questions of pages and of the public sets; what has none is refused by field."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from headmap.datasets.sources import MADE_UP, MadeUpPages, PageSource, StoredPages
from headmap.errors import DatasetUnavailable, InvalidDataset, InvalidParameter
from headmap.evaluation.metrics import Metric, get_metric
from headmap.evaluation.questions import PageQuestions, Question, QuestionSet
from headmap.evaluation.sources import (
    DEFAULT_QUESTIONS,
    choose_marking,
    open_named_questions,
    open_questions,
    take_questions,
)
from headmap.scoring.pages import TRANSCRIBE_PROMPT, Page, make_page

PIXELS = 10_000_000
SHORT = "\nAnswer the question using a single word or phrase."


def no_pages(name: str) -> PageSource:
    raise LookupError(name)


def open_public(place: Path, metric: Metric | None = None) -> QuestionSet:
    return open_questions(str(place), metric, no_pages, max_pixels=PIXELS)


def ids(questions: Sequence[Question]) -> list[str]:
    return [one.id for one in questions]


@pytest.mark.parametrize("kind", MADE_UP)
def test_every_made_up_kind_has_questions(kind: str) -> None:
    asked = PageQuestions(MadeUpPages(MADE_UP[kind]))
    first, *_ = found = list(asked.questions(3, 0, 6))
    page = MADE_UP[kind](3, 0)
    assert (first.text, first.answers) == (page.questions[0].question, (page.questions[0].answer,))
    assert len(set(ids(found))) == 6
    assert take_questions(asked, kind, get_metric("exact"), count=None) == DEFAULT_QUESTIONS


def test_slices_make_up_the_whole() -> None:
    asked = PageQuestions(MadeUpPages(make_page))
    whole = list(asked.questions(5, 0, 9))
    parts = [one for first in (0, 4, 8) for one in asked.questions(5, first, 4)][:9]
    assert [(one.id, one.text, one.answers) for one in parts] == [(one.id, one.text, one.answers) for one in whole]


def test_a_page_is_opened_once_to_count_its_questions() -> None:
    opened: list[int] = []

    def page(number: int) -> Page:
        opened.append(number)
        found = make_page(1, number)
        return Page(found.image, found.words, () if number == 1 else found.questions)

    asked = PageQuestions(StoredPages(6, page))
    whole = ids(list(asked.questions(0, 0, 99)))
    assert opened == list(range(6))
    opened.clear()
    assert ids(list(asked.questions(0, len(whole) - 1, 9))) == whole[-1:]
    assert opened == [5]
    assert list(asked.questions(0, len(whole), 9)) == []
    last = PageQuestions(StoredPages(6, page))  # a worker that begins there
    assert ids(list(last.questions(0, len(whole) - 1, 9))) == whole[-1:]


def test_transcription_asks_for_each_page() -> None:
    asked = PageQuestions(StoredPages(2, lambda number: make_page(1, number)), transcribe=True)
    found = list(asked.questions(0, 0, 9))
    assert [(one.text, one.answers) for one in found] == [
        (TRANSCRIBE_PROMPT, (make_page(1, number).text,)) for number in range(2)
    ]
    assert (asked.size, asked.metric) == (2, "cer")
    with pytest.raises(InvalidParameter, match="questions: 'mine' has 2, got 3"):
        take_questions(asked, "mine", get_metric("cer"), count=3)


def test_pages_without_questions_are_refused() -> None:
    empty = StoredPages(2, lambda number: Page(make_page(1, number).image, make_page(1, number).words, ()))
    with pytest.raises(InvalidParameter, match="dataset: 'mine' has no questions") as refused:
        take_questions(PageQuestions(empty), "mine", get_metric("exact"), count=None)
    assert refused.value.param == "dataset"
    with pytest.raises(InvalidParameter, match="dataset: 'synthdog-en' has no questions"):
        open_questions("synthdog-en", None, no_pages, max_pixels=PIXELS)


# ---- public sets

IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
TEXTS = pa.list_(pa.string())
COLUMNS: dict[str, dict[str, Any]] = {
    "docvqa": {
        "questionId": pa.string(), "question": pa.string(), "question_types": TEXTS, "image": IMAGE,
        "docId": pa.int64(), "ucsf_document_id": pa.string(), "answers": TEXTS, "data_split": pa.string(),
    },
    "textvqa": {
        "image_id": pa.string(), "question_id": pa.int64(), "question": pa.string(), "image": IMAGE,
        "image_width": pa.int64(), "answers": TEXTS, "set_name": pa.string(), "ocr_tokens": TEXTS,
    },
    "chartqa": {"type": pa.string(), "question": pa.string(), "answer": pa.string(), "image": IMAGE},
    "ocrbench": {
        "dataset": pa.string(), "question": pa.string(), "question_type": pa.string(), "answer": TEXTS, "image": IMAGE,
    },
}  # fmt: skip
"""The columns of the sets' cards on the Hub."""


def row(number: int, **values: Any) -> dict[str, Any]:
    buffer = BytesIO()
    Image.new("RGB", (8 + number, 8)).save(buffer, "PNG")
    return {"question": f"What is {number}?", "image": {"bytes": buffer.getvalue(), "path": None}, **values}


ROWS: dict[str, list[dict[str, Any]]] = {
    "docvqa": [row(n, questionId=f"{50 + n}", answers=["ITC", "itc limited"]) for n in range(3)],
    "textvqa": [row(n, question_id=34600 + n, image_id="ab", answers=["nokia"] * 10) for n in range(3)],
    "chartqa": [row(n, type="human_test", answer=f"{n}.5") for n in range(3)],
    "ocrbench": [row(n, dataset="IIIT5K", question_type="Regular", answer=["CENTRE"]) for n in range(3)],
}


def write(folder: Path, name: str, rows: list[dict[str, Any]], file: str = "test-00000-of-00001.parquet") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows, schema=pa.schema(COLUMNS[name]))
    parquet.write_table(table, folder / file, row_group_size=2)
    return folder


@pytest.mark.parametrize(
    ("name", "metric", "suffix", "first", "answers"),
    [
        ("docvqa", "anls", SHORT, "50", ("ITC", "itc limited")),
        ("textvqa", "vqa", SHORT, "34600", ("nokia",) * 10),
        ("chartqa", "relaxed", "\nAnswer the question with a single word.", "0", ("0.5",)),
        ("ocrbench", "contains", "", "0", ("CENTRE",)),
    ],
)
def test_public_sets_are_known_by_their_columns(
    tmp_path: Path, name: str, metric: str, suffix: str, first: str, answers: tuple[str, ...]
) -> None:
    asked = open_public(write(tmp_path, name, ROWS[name]))
    found = list(asked.questions(0, 0, 9))
    assert (asked.size, asked.metric) == (3, metric)
    assert (found[0].id, found[0].text, found[0].answers) == (first, f"What is 0?{suffix}", answers)
    assert [one.pictures[0].width for one in found] == [8, 9, 10]
    assert ids([*asked.questions(0, 0, 2), *asked.questions(0, 2, 2)]) == ids(found)
    assert sorted(ids(list(asked.questions(7, 0, 3)))) == sorted(ids(found))
    assert take_questions(asked, name, get_metric(metric), count=None) == 3


def test_files_of_one_split_are_one_set_and_two_splits_are_refused(tmp_path: Path) -> None:
    for number in range(2):
        write(tmp_path / "data", "chartqa", ROWS["chartqa"], f"test-{number:05d}-of-00002.parquet")
    found = list(open_public(tmp_path).questions(0, 0, 9))
    assert ids(found) == [str(number) for number in range(6)]
    write(tmp_path / "data", "chartqa", ROWS["chartqa"], "val-00000-of-00001.parquet")
    with pytest.raises(InvalidParameter, match="several splits, name one of them: test, val"):
        open_public(tmp_path)
    assert open_public(tmp_path / "data" / "val-00000-of-00001.parquet").size == 3


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"answers": None}, r"row 0: column 'answers' must hold right answers, not None"),
        ({"answers": []}, "column 'answers'"),
        ({"question": " "}, "column 'question' must be a text"),
        ({"image": None}, "column 'image' must hold the picture's bytes"),
        ({"image": {"bytes": b"no picture", "path": None}}, "column 'image'"),
    ],
)
def test_rows_that_are_no_questions_are_named(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    asked = open_public(write(tmp_path, "docvqa", [{**ROWS["docvqa"][0], **changes}]))
    with pytest.raises(InvalidDataset, match=named):
        take_questions(asked, "mine", get_metric("anls"), count=None)


def test_places_that_hold_no_set_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet.write_table(pa.table({"text": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(InvalidDataset, match="columns of none of DocVQA, TextVQA, ChartQA, OCRBench: text"):
        open_public(tmp_path)
    (tmp_path / "a.parquet").write_bytes(b"no parquet")
    with pytest.raises(InvalidDataset, match="is not a readable parquet file"):
        open_public(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DatasetUnavailable, match="'nobody/none' is not in the local Hub cache"):
        open_questions("nobody/none", None, no_pages, max_pixels=PIXELS)
    with pytest.raises(LookupError, match="mine"):  # any other name is that of pages
        open_questions("mine", None, no_pages, max_pixels=PIXELS)


@pytest.mark.parametrize(
    ("place", "metric", "named", "most"),
    [("docvqa", None, "anls", 32), ("ocrbench", None, "contains", 128), ("docvqa", "exact", "exact", 32)],
)
def test_the_marking_of_a_named_set_is_known_without_its_files(
    tmp_path: Path, place: str, metric: str | None, named: str, most: int
) -> None:
    chosen = None if metric is None else get_metric(metric)
    opened = open_public(write(tmp_path, place, ROWS[place]))
    repo = {"docvqa": "lmms-lab/DocVQA/DocVQA/validation", "ocrbench": "echo840/OCRBench"}[place]
    found, tokens = choose_marking(repo, chosen)
    assert (found.name, tokens) == (named, most) == (metric or opened.metric, opened.max_new_tokens)


def test_the_marking_of_pages_is_that_of_their_questions() -> None:
    for metric in (None, get_metric("wer")):
        asked = PageQuestions(MadeUpPages(make_page), transcribe=metric is not None)
        found, tokens = choose_marking("synthetic", metric)
        assert (found.name, tokens) == (metric.name if metric else asked.metric, asked.max_new_tokens)
    with pytest.raises(InvalidParameter, match="metric: 'vqa' takes at least 4"):
        choose_marking("synthetic", get_metric("vqa"))
    with pytest.raises(InvalidParameter, match="metric: 'me/pages' is none of lmms-lab/DocVQA"):
        choose_marking("me/pages", None)


def test_a_local_path_is_no_name(tmp_path: Path) -> None:
    folder = write(tmp_path, "chartqa", ROWS["chartqa"])
    with pytest.raises(LookupError):
        open_named_questions(str(folder), None, no_pages, max_pixels=PIXELS)
    with pytest.raises(LookupError):
        open_named_questions("../pages", None, no_pages, max_pixels=PIXELS)


def test_a_metric_for_other_answers_is_refused(tmp_path: Path) -> None:
    asked = open_public(write(tmp_path, "chartqa", ROWS["chartqa"]))
    with pytest.raises(InvalidParameter, match="metric: 'vqa' takes at least 4"):
        take_questions(asked, "chartqa", get_metric("vqa"), count=None)
