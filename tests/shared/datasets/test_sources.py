"""Datasets by name, and the pages that seeds and numbers stand for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from headmap.datasets.sources import MADE_UP, DatasetInfo, StoredPages, open_dataset, page_order
from headmap.errors import DatasetNotFound, InvalidParameter
from headmap.scoring.pages import Page, make_page
from headmap.settings import Settings

SET = StoredPages(50, lambda number: Page(Image.new("RGB", (8, 8), (number, 0, 0)), (), ()))


def numbers(seed: int, first: int, count: int) -> list[int]:
    return [page.image.getpixel((0, 0))[0] for page in SET.pages(seed, first, count)]  # type: ignore[index]


def test_the_default_is_the_pages_of_the_bundled_model() -> None:
    (page,) = open_dataset("synthetic", Settings()).pages(3, 7, 1)
    assert page.words == make_page(3, 7).words


def test_an_unknown_name_is_told_with_those_there_are() -> None:
    with pytest.raises(DatasetNotFound, match=r"'nope' is not one of synthetic, synthetic-long"):
        open_dataset("nope", Settings())


def test_made_up_pages_have_no_end() -> None:
    for name in MADE_UP:
        assert open_dataset(name, Settings()).size is None


def test_seed_0_takes_stored_pages_in_their_own_order() -> None:
    assert SET.size == 50
    assert numbers(0, 10, 5) == [10, 11, 12, 13, 14]


@given(st.integers(1, 2**63))
def test_another_seed_shuffles_all_of_them(seed: int) -> None:
    assert sorted(numbers(seed, 0, 50)) == list(range(50))
    assert numbers(seed, 0, 20) + numbers(seed, 20, 30) == numbers(seed, 0, 50), "shards are parts of one order"


def test_the_order_is_that_of_every_other_machine() -> None:
    assert page_order(8, 1) == [5, 2, 1, 3, 4, 6, 0, 7]


def test_pages_past_the_last_are_refused() -> None:
    with pytest.raises(InvalidParameter, match="has 50 pages, so there are no pages 40 to 50"):
        SET.pages(0, 40, 11)


def test_how_many_pages_are_read() -> None:
    made_up, small, large, one = (DatasetInfo(size, None) for size in (None, 30, 5000, 1))
    assert [info.fit(None, None)[0] for info in (made_up, small, large, one)] == [1000, 30, 1000, 1]
    assert [info.fit(25, None)[0] for info in (made_up, small, large)] == [25, 25, 25]
    assert [info.fit("auto", None)[1] for info in (made_up, small, large)] == [None, 30, 1000]
    assert [info.fit("auto", 20) for info in (made_up, small, large)] == [("auto", 20)] * 3
    for pages, most, message in (
        (31, None, "^pages: the dataset has 30 pages, got 31"),
        ("auto", 31, "^max_pages: the dataset has 30 pages, got 31"),
    ):
        with pytest.raises(InvalidParameter, match=message):
            small.fit(pages, most)  # type: ignore[arg-type]
    with pytest.raises(InvalidParameter, match="but the dataset has one page"):
        one.fit("auto", None)
