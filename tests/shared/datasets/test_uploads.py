"""An upload is looked at in full: fields, pictures, boxes; then it is filed whole, or not at all."""

from __future__ import annotations

import codecs
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import func, select

from headmap.blobs.location import open_blobs
from headmap.datasets import checking, records
from headmap.datasets.checking import check_archive, check_folder
from headmap.datasets.page_folder import PageFolder
from headmap.datasets.sources import open_dataset
from headmap.datasets.uploads import file_upload
from headmap.errors import (
    DatasetBuiltIn,
    DatasetExists,
    DatasetNotFound,
    DatasetTooLarge,
    InvalidDataset,
    InvalidParameter,
)
from headmap.registry.session import Database, open_database
from headmap.registry.tables import Dataset, DatasetPack
from headmap.scoring.pages import make_page
from headmap.settings import Settings
from tests.shared.datasets.archives import as_tar, as_tar_gz, as_zip, files, write_folder


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data")


@pytest.fixture
def database(settings: Settings, migrated: Callable[[Settings], None]) -> Iterator[Database]:
    migrated(settings)
    opened = open_database(settings)
    yield opened
    opened.close()


def checksum(data: bytes, settings: Settings) -> str:
    with check_archive(io.BytesIO(data), settings) as upload:
        return upload.checksum


def refused(content: dict[str, bytes], settings: Settings, match: str) -> None:
    with pytest.raises(InvalidDataset, match=match), check_archive(io.BytesIO(as_zip(content)), settings):
        pass


def picture(form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48)).save(buffer, form, **options)
    return buffer.getvalue()


def test_the_same_pages_are_the_same_whatever_they_come_in(tmp_path: Path, settings: Settings) -> None:
    contents = (files(), files(folder="a/"))
    found = {checksum(pack(one), settings) for pack in (as_zip, as_tar, as_tar_gz) for one in contents}
    folder = check_folder(write_folder(tmp_path / "pages", files() | {"notes.txt": b"mine"}), settings)
    assert found == {folder.checksum}
    assert (folder.pages, folder.words > 10, folder.questions) == (2, True, 8)
    assert checksum(as_zip(files(3)), settings) != folder.checksum


def test_a_byte_order_mark_changes_nothing(settings: Settings) -> None:
    marked = files() | {"pages.jsonl": codecs.BOM_UTF8 + files()["pages.jsonl"]}
    assert checksum(as_zip(marked), settings) == checksum(as_zip(files()), settings)


def test_filed_pages_are_those_that_went_in(database: Database, settings: Settings) -> None:
    with check_archive(io.BytesIO(as_zip(files(3))), settings) as upload:
        record, created = file_upload(database, open_blobs(settings), "mine", upload)
    assert (created, record.name, record.pages, record.bytes) == (True, "mine", 3, upload.size)
    source = open_dataset("mine", settings, database=database, checksum=record.checksum)
    assert source.size == 3
    for index, page in enumerate(source.pages(0, 0, 3)):
        made = make_page(50, index)
        assert (page.words, page.questions) == (made.words, made.questions)
        assert (np.asarray(page.image) == np.asarray(made.image)).all()


def test_a_name_stands_for_the_same_pages_for_ever(database: Database, settings: Settings) -> None:
    for count, expected in ((2, True), (2, False)):
        with check_archive(io.BytesIO(as_zip(files(count))), settings) as upload:
            assert file_upload(database, open_blobs(settings), "mine", upload)[1] is expected
    with check_archive(io.BytesIO(as_zip(files(3))), settings) as upload, pytest.raises(DatasetExists, match="'mine'"):
        file_upload(database, open_blobs(settings), "mine", upload)
    with pytest.raises(DatasetNotFound, match="now holds other pages"):
        open_dataset("mine", settings, database=database, checksum="0" * 64)


@pytest.mark.parametrize("name", ["", "../a", "a b", "-a", "x" * 65, "ä"])
def test_a_name_that_can_be_none_is_refused(database: Database, settings: Settings, name: str) -> None:
    with check_archive(io.BytesIO(as_zip(files())), settings) as upload, pytest.raises(InvalidParameter, match="name"):
        file_upload(database, open_blobs(settings), name, upload)


def test_a_built_in_name_is_refused(database: Database, settings: Settings) -> None:
    with (
        check_archive(io.BytesIO(as_zip(files())), settings) as upload,
        pytest.raises(DatasetBuiltIn, match="receipts"),
    ):
        file_upload(database, open_blobs(settings), "receipts", upload)


def test_an_upload_that_breaks_off_leaves_nothing(database: Database, settings: Settings, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "pages", files(3))
    upload = check_folder(folder, settings)
    (folder / "0002.png").unlink()  # after it was looked at
    with pytest.raises(OSError, match=r"0002\.png"):
        file_upload(database, open_blobs(settings), "mine", upload)
    with database.read() as session:
        for table in (Dataset, DatasetPack):
            assert session.scalar(select(func.count()).select_from(table)) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"file": "../../etc/passwd"}, r"pages\.jsonl, line 1: field 'file' must be a plain file name"),
        ({"file": "0001.png"}, r"line 2: field 'file': '0001\.png' is already the picture of another page"),
        ({"file": "9999.png"}, r"line 1: field 'file': '9999\.png' is not in the archive"),
        ({"words": [{"text": "A", "box": [0, 0, 9999, 9]}]}, r"line 1, words\[0\]: field 'box' must lie inside"),
        ({"words": "A"}, "line 1: field 'words' must be of type list"),
        ({"questions": None}, "line 1: field 'questions' must be of type list"),
        ({"width": 10**9}, "more than 20000000000 pixels"),
        ({"width": 9999, "height": 9999, "words": []}, "fields 'width' and 'height' say"),
    ],
)
def test_a_wrong_record_is_named(settings: Settings, change: dict[str, Any], message: str) -> None:
    refused(files(**change), settings, message)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"no picture", r"line 1, file '0000\.png': is not a readable PNG, JPEG, WEBP, GIF, BMP, TIFF picture"),
        (b"", "is not a readable PNG"),
        (files()["0000.png"][:-900], "the picture is broken"),
        (picture("PPM"), "is not a readable PNG"),
        (picture("PNG"), r"the upright picture has \(64, 48\)"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is not a readable PNG"),
    ],
    ids=["text", "empty", "cut short", "ppm", "other size", "svg"],
)
def test_what_is_no_picture_is_refused(settings: Settings, data: bytes, message: str) -> None:
    refused(files() | {"0000.png": data}, settings, message)


def test_an_animation_is_refused(settings: Settings) -> None:
    moving = picture("PNG", save_all=True, append_images=[Image.new("RGB", (64, 48), (9, 9, 9))])
    refused(files(width=64, height=48, words=[]) | {"0000.png": moving}, settings, "is animated")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, r"must hold one pages\.jsonl, .* found none"),
        ({"a/pages.jsonl": b"{}", "b/pages.jsonl": b"{}"}, r"must hold one pages\.jsonl"),
        ({"a/b/pages.jsonl": b"{}"}, r"must hold one pages\.jsonl"),
        ({"pages.jsonl": b""}, r"pages\.jsonl: no page has a word"),
        ({"pages.jsonl": b"{broken"}, "line 1: not JSON"),
        ({"pages.jsonl": b"\xff\xfe"}, "line 1: not UTF-8"),
        ({"pages.jsonl": b"[" * 100_000}, "line 1: not JSON"),
        (files() | {"other.png": b"1"}, r"no line of pages\.jsonl names 'other\.png'"),
        (files(folder="a/") | {"0002.png": b"1"}, r"no line of pages\.jsonl names '0002\.png'"),
    ],
)
def test_an_archive_of_another_make_is_refused(settings: Settings, content: dict[str, bytes], message: str) -> None:
    refused(content, settings, message)


def test_limits_of_the_settings_are_kept(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(files(), settings.model_copy(update={"max_image_bytes": 100}), r"'0000\.png' has more than 100 bytes")
    refused(files(), settings.model_copy(update={"max_image_pixels": 100}), "at most 100 are allowed")
    small = settings.model_copy(update={"max_dataset_bytes": 1000})
    with pytest.raises(DatasetTooLarge), check_archive(io.BytesIO(as_zip(files())), small):
        pass
    monkeypatch.setattr(records, "MAX_PAGES", 1)
    refused(files(), settings, "line 2: more than 1 pages")
    refused({"pages.jsonl": b"\n" * 9}, settings, "line 3: more than 2 lines")
    monkeypatch.setattr(checking, "MAX_INDEX_BYTES", 8)
    refused(files(), settings, r"pages\.jsonl has more than 8 bytes")


def test_a_line_is_not_read_beyond_its_bound(settings: Settings, tmp_path: Path) -> None:
    line = b"[" + b"0," * (records.MAX_LINE_BYTES // 2) + b"0]"
    refused({"pages.jsonl": line * 4}, settings, f"line 1: more than {records.MAX_LINE_BYTES} bytes")
    with pytest.raises(InvalidDataset, match="line 1: more than"):
        PageFolder(write_folder(tmp_path, {"pages.jsonl": line}))
    longest = files()["pages.jsonl"].replace(b"\n", b" " * 1000 + b"\r\n")
    assert checksum(as_zip(files() | {"pages.jsonl": longest}), settings) == checksum(as_zip(files()), settings)


def test_a_folder_is_held_to_the_same(tmp_path: Path, settings: Settings) -> None:
    with pytest.raises(InvalidDataset, match=r"pages\.jsonl: no such file"):
        check_folder(tmp_path, settings)
    folder = write_folder(tmp_path / "pages", files(file="9999.png"))
    with pytest.raises(InvalidDataset, match=r"'9999\.png' is not in the archive"):
        check_folder(folder, settings)
    small = settings.model_copy(update={"max_dataset_bytes": 1000})
    with pytest.raises(DatasetTooLarge):
        check_folder(write_folder(tmp_path / "more", files()), small)
