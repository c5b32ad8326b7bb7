"""Where heads looked: kept and read back, and drawn."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from headmap.looks import MAX_SIDE, Look, PageLooks, small_jpeg
from headmap.pictures.overlay import Caption, draw_overlay
from tests.shared.jobs.fakes import HEADS, LAYERS, page_looks


def test_looks_come_back_as_they_were() -> None:
    looks = page_looks(1)
    back = PageLooks.unpack(looks.picture, looks.about(), looks.packed())
    assert (back.cells == looks.cells).all()
    assert (back.hits == looks.hits).all()
    for name in ("width", "height", "picture", "words", "tokens", "token_words", "x_edges", "y_edges"):
        assert getattr(back, name) == getattr(looks, name), name


def test_packing_is_the_same_to_the_byte() -> None:
    assert page_looks(0).packed() == page_looks(0).packed()


def test_a_look_is_a_cell_in_pixels_of_the_page() -> None:
    hit, elsewhere = page_looks(0).of_head(2, 0)
    assert hit == Look("AB", 0, (0.0, 0.0, 20.0, 20.0), True)
    assert elsewhere == Look("C", 1, None, False)
    assert page_looks(0).of_head(0, 3)[0].cell == (0.0, 20.0, 20.0, 40.0)  # row 1, column 0
    with pytest.raises(IndexError):
        page_looks(0).of_head(LAYERS, 0)


def test_pictures_are_kept_small() -> None:
    kept = Image.open(io.BytesIO(small_jpeg(Image.new("RGBA", (3000, 1000)))))
    assert (kept.format, kept.size) == ("JPEG", (MAX_SIDE, 427))


def test_an_overlay_shows_where_the_head_looked() -> None:
    looks = page_looks(12)  # on nearly white paper
    caption = Caption("some/$model", 1, 0, 0, 0)
    hitting = np.asarray(Image.open(io.BytesIO(draw_overlay(looks, caption))).convert("RGB"))
    missing = draw_overlay(looks, Caption("some/$model", 1, 0, HEADS - 1, 0))
    assert (hitting.reshape(-1, 3) == (31, 119, 180)).all(1).any()  # the frame of the word it hit
    bluish = hitting[..., 2].astype(int) - hitting[..., 0] > 30
    assert bluish.mean() > 0.05  # the cell it looked at: a sixth of the page
    assert draw_overlay(looks, caption) == draw_overlay(looks, caption)
    assert draw_overlay(looks, caption) != missing


@pytest.mark.parametrize(("width", "height"), [(4000, 40), (40, 4000), (1, 1)])
def test_pages_of_any_shape_can_be_drawn(width: int, height: int) -> None:
    looks = page_looks(0)
    odd = PageLooks(**{**vars(looks), "width": width, "height": height})
    image = Image.open(io.BytesIO(draw_overlay(odd, Caption("m", 1, 0, 0, 0))))
    assert max(image.size) < 3000
