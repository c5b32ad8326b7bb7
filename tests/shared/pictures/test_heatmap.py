"""The picture of a map: it is one, says what it shows, and is the same each time."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from headmap.errors import InvalidScores
from headmap.head_scores import HeadScores, compare
from headmap.pictures.heatmap import Picture, draw
from headmap.pictures.scatter import MapName, draw_scatter

SVG = "{http://www.w3.org/2000/svg}"


def scores(layers: int = 6, heads: int = 8) -> HeadScores:
    return HeadScores(np.random.default_rng(0).random((layers, heads)) ** 6, heads)


def test_an_svg_is_the_same_to_the_byte_in_any_thread() -> None:
    with ThreadPoolExecutor(2) as pool:
        drawn = set(pool.map(lambda _: draw(scores(), Picture("m", 1, 10)), range(3)))
    assert len(drawn) == 1


def test_an_svg_shows_its_top_heads_and_names_the_model() -> None:
    picture = draw(scores(), Picture("some/model", 3, 1000))
    root = ElementTree.fromstring(picture)
    assert root.tag == f"{SVG}svg"
    text = picture.decode()  # texts are drawn as outlines, and kept as comments
    for words in (
        "some/model, map 3, 1,000 pages",
        "attention head",
        "layer",
        "share of the score, %",
        "top 5% of heads",
    ):
        assert words in text
    assert text.count("#d62728") >= 2
    assert draw(scores(), Picture("other/model", 3, 1000)) != picture


def test_kv_heads_have_a_view_of_their_own() -> None:
    grouped = HeadScores(scores().matrix, 2)
    picture = draw(grouped, Picture("m"), view="kv_heads").decode()
    assert "KV head" in picture
    assert "top 5% of KV heads (1)" in picture
    held = grouped.per_kv_head().max()
    assert f"{held:.0%} of the score" in picture


def test_the_top_heads_are_the_maps() -> None:
    found = scores()
    text = draw(found, Picture("m")).decode()
    assert f"top 5% of heads ({len(found.top_heads(0.05))}), {found.top_share(0.05):.0%} of the score" in text


def test_a_png_can_be_read() -> None:
    image = Image.open(io.BytesIO(draw(scores(), Picture("m"), "png")))
    image.load()
    assert image.width > 400
    assert image.height > 200


@pytest.mark.parametrize(("layers", "heads"), [(1, 1), (1, 64), (80, 2)])
def test_any_shape_can_be_drawn(layers: int, heads: int) -> None:
    image = Image.open(io.BytesIO(draw(scores(layers, heads), Picture("m", None, 1), "png")))
    assert max(image.size) < 4000


@pytest.mark.filterwarnings("ignore:Glyph")  # a box is drawn for what the font lacks
@pytest.mark.parametrize("name", ["$x$", "$", "a_b^c", "<&>", "x" * 500, "日本"])
def test_any_name_can_be_drawn(name: str) -> None:
    ElementTree.fromstring(draw(scores(), Picture(name)))


def test_a_scatter_names_both_maps_and_how_alike_they_are() -> None:
    a, b = scores(), HeadScores(scores().matrix[::-1], 8)
    names = MapName("some/$model", 1), MapName("some/$model", 2)
    text = draw_scatter(a, b, names).decode()
    alike = compare(a, b)
    for words in ("some/$model, map 1", "some/$model, map 2", f"rank correlation {alike.spearman:.2f}"):
        assert words in text
    assert draw_scatter(a, b, names) == draw_scatter(a, b, names)
    Image.open(io.BytesIO(draw_scatter(a, a, names, "png"))).verify()
    with pytest.raises(InvalidScores):
        draw_scatter(a, scores(2, 2), names)


@pytest.mark.parametrize("name", ["a\ufffeb", "a\x00b", "a\x1bb", "a\ud800b", "<&>]]>--"])
def test_any_name_makes_an_svg_that_can_be_parsed(name: str) -> None:
    ElementTree.fromstring(draw(scores(), Picture(name, 1, 10)))
    ElementTree.fromstring(draw_scatter(scores(), scores(), (MapName(name, 1), MapName(name, 2))))


def test_the_largest_maps_are_drawn_in_bounds() -> None:
    largest = HeadScores(np.random.default_rng(0).random((1024, 64)), 32)
    for picture in (draw(largest, Picture("m")), draw_scatter(largest, largest, (MapName("a", 1), MapName("b", 2)))):
        assert picture.count(b"<use") + picture.count(b"<path") < 6000, "what a browser has to draw one by one"
