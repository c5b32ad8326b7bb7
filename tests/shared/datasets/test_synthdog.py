"""The public set: rows of parquet files of its schema become pages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from headmap.datasets.sources import open_dataset
from headmap.datasets.synthdog import open_synthdog
from headmap.errors import DatasetUnavailable, InvalidDataset
from headmap.scoring.pages import make_page
from headmap.settings import Settings
from tests.shared.datasets.parquet import row, write, write_set

PIXELS = 40_000_000


def chunks(*pairs: tuple[str, list[list[float]]]) -> dict[str, Any]:
    return {"2_coord": [{"chunk": text, "coord": coord} for text, coord in pairs]}


@pytest.fixture
def one_row(tmp_path: Path) -> Callable[..., str]:
    """A folder with one page, some of whose columns are changed."""

    def make(**change: Any) -> str:
        write(tmp_path / "one.parquet", [row(make_page(1, 0)) | change])
        return str(tmp_path)

    return make


def test_a_folders_rows_are_pages_over_groups_and_files(tmp_path: Path) -> None:
    made = write_set(tmp_path)
    source = open_dataset("synthdog-en", Settings(synthdog=str(tmp_path)))
    assert source.size == 8
    for page, original in zip(source.pages(0, 0, 8), made, strict=True):
        assert (page.words, page.questions) == (original.words, ())
        assert page.text == original.text
        difference = np.asarray(page.image, dtype=int) - np.asarray(original.image, dtype=int)
        assert np.abs(difference).mean() < 8, "a JPEG of the same picture"


def test_shards_and_seeds_take_parts_of_one_order(tmp_path: Path) -> None:
    write_set(tmp_path)
    source = open_dataset("synthdog-en", Settings(synthdog=str(tmp_path)))
    whole = [page.words for page in source.pages(5, 0, 8)]
    assert whole != [page.words for page in source.pages(0, 0, 8)]
    assert [page.words for first in (0, 3, 6) for page in source.pages(5, first, min(3, 8 - first))] == whole


def test_boxes_become_whole_pixels_within_the_picture(one_row: Callable[..., str]) -> None:
    found = open_synthdog(
        one_row(
            **chunks(
                ("two  words", [[2.6, 3.2], [20.1, 9.9]]),
                ("corners the other way", [[30.0, 12.0], [4.0, 2.0]]),
                ("partly outside", [[-3.0, -2.0], [10.0, 10.0]]),
                ("outside", [[-9.0, -9.0], [-3.0, -3.0]]),
                ("", [[2.0, 2.0], [9.0, 9.0]]),
                ("endless", [[2.0, 2.0], [float("inf"), 9.0]]),
            )
        ),
        max_pixels=PIXELS,
    )
    assert [(word.text, word.box) for word in found.page(0).words] == [
        ("two words", (2, 3, 21, 10)),
        ("corners the other way", (4, 2, 30, 12)),
        ("partly outside", (0, 0, 10, 10)),
    ]


def test_a_page_without_text_has_no_words(one_row: Callable[..., str]) -> None:
    assert open_synthdog(one_row(**{"2_coord": []}), max_pixels=PIXELS).page(0).words == ()


def test_files_as_datasets_writes_them_are_read(tmp_path: Path) -> None:
    """A sequence of structs as a struct of lists, 64-bit types, bare bytes as pictures, whole numbers, its metadata."""
    made = [make_page(3, index) for index in range(5)]
    rows = [row(page) for page in made]
    boxes = pa.struct({"chunk": pa.large_list(pa.large_string()), "coord": pa.list_(pa.list_(pa.list_(pa.int32(), 2)))})
    schema = pa.schema({"image": pa.large_binary(), "2_coord": boxes}, metadata={"huggingface": '{"info": {}}'})
    written = [
        {
            "image": one["image"]["bytes"],
            "2_coord": {name: [chunk[name] for chunk in one["2_coord"]] for name in ("chunk", "coord")},
        }
        for one in rows
    ]
    parquet.write_table(pa.Table.from_pylist(written, schema=schema), tmp_path / "a.parquet", row_group_size=2)
    found = open_synthdog(str(tmp_path), max_pixels=PIXELS)
    assert [found.page(number).words for number in range(5)] == [page.words for page in made]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": None}, r"one\.parquet, page 0: column 'image' must hold the picture's bytes"),
        ({"image": {"bytes": None, "path": "a.jpg"}}, "column 'image' must hold the picture's bytes"),
        (
            {"image": {"bytes": b"%PDF-1", "path": ""}},
            "column 'image': is not a readable PNG, JPEG, WEBP, GIF, BMP, TIFF picture",
        ),
        ({"2_coord": None}, r"page 0: column '2_coord': must be the page's boxes, .* not None"),
        (chunks(("A", [[1.0, 2.0]])), "column '2_coord', item 0: must be a 'chunk' of text and two corners"),
        (chunks(("A", [[1.0], [2.0]])), "item 0"),
        ({"2_coord": [{"chunk": None, "coord": [[1.0, 2.0], [3.0, 4.0]]}]}, "item 0"),
    ],
)
def test_a_wrong_row_is_named(one_row: Callable[..., str], change: dict[str, Any], message: str) -> None:
    found = open_synthdog(one_row(**change), max_pixels=PIXELS)
    with pytest.raises(InvalidDataset, match=message):
        found.page(0)


def test_a_picture_of_too_many_pixels_is_refused(one_row: Callable[..., str]) -> None:
    with pytest.raises(InvalidDataset, match="at most 100 are allowed"):
        open_synthdog(one_row(), max_pixels=100).page(0)


def test_a_file_of_another_schema_is_named(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"image": ["a"], "ground_truth": ["b"]}), tmp_path / "other.parquet")
    with pytest.raises(InvalidDataset, match=r"other\.parquet: column '2_coord' is missing; there are image, ground_"):
        open_synthdog(str(tmp_path), max_pixels=PIXELS)


def test_a_file_that_is_no_parquet_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(InvalidDataset, match=r"broken\.parquet: is not a readable parquet file"):
        open_synthdog(str(tmp_path), max_pixels=PIXELS)


def test_a_folder_without_files_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetUnavailable, match="'synthdog-en': no parquet files in"):
        open_synthdog(str(tmp_path), max_pixels=PIXELS)


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hub cache, and no way to the Hub."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def test_a_hub_out_of_reach_is_said_with_the_name_of_the_set(hub_cache: Path) -> None:
    message = "'synthdog-en': 'org/set' is not in the local Hub cache and cannot be fetched"
    with pytest.raises(DatasetUnavailable, match=message) as caught:
        open_synthdog("org/set", max_pixels=PIXELS)
    assert caught.value.status == 503
    assert "HEADMAP_SYNTHDOG" in caught.value.detail


def test_a_hub_id_is_read_from_the_cache_its_first_file_alone(hub_cache: Path) -> None:
    repo = hub_cache / "datasets--org--set"
    commit = "a" * 40
    write_set(repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    assert open_synthdog("org/set", max_pixels=PIXELS).size == 5
