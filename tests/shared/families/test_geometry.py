"""Where visual tokens lie, by experiment: change the pixels of one cell and see which token's embedding moves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from headmap.errors import InvalidParameter
from headmap.families.loading import LoadedModel
from tests.shared.families.seeing import ask, features, noise, visual_tokens, without_mixing


def cell_centre(image: object, row: int, col: int) -> tuple[float, float]:
    return (col + 0.5 - image.x.offset) / image.x.scale, (row + 0.5 - image.y.offset) / image.y.scale


@pytest.mark.parametrize("number", [0, 1], ids=["one", "second"])
def test_a_changed_cell_moves_its_token_alone(family_model: LoadedModel, number: int) -> None:
    """Through the real processor, the real tower (without attention), merging, unpadding and newlines."""
    model = without_mixing(family_model)
    for width, height in ((64, 64), (96, 48), (41, 90)):
        pixels = noise(width, height)
        pictures = [noise(56, 72, 1), pixels] if number else [pixels]
        before = features(model, family_model, [Image.fromarray(one) for one in pictures])
        images = visual_tokens(family_model, [Image.fromarray(one) for one in pictures])
        image, first = images[number], sum(one.count for one in images[:number])
        rows, cols = image.grid.shape
        for row, col in ((0, 0), (rows // 2, cols // 2), (rows - 1, cols - 1), (rows - 1, 0)):
            x, y = cell_centre(image, row, col)
            if not (1 <= x <= width - 1 and 1 <= y <= height - 1):
                continue  # a cell of padding
            changed = pixels.copy()
            changed[int(y - 1) : int(y + 1), int(x - 1) : int(x + 1)] = 255
            pictures[number] = changed
            after = features(model, family_model, [Image.fromarray(one) for one in pictures])
            moved = np.abs(after - before).max(1)
            shown = image.grid.ravel() + first
            assert shown[moved[shown].argmax()] == first + image.grid[row, col]
            # resampling may bleed a little into neighbours, never more
            others = np.delete(moved[shown], np.flatnonzero(shown == first + image.grid[row, col]))
            assert others.max() < 0.6 * moved[first + image.grid[row, col]]
            assert image.region((x, y, x, y)).tolist() == [image.grid[row, col]]


def test_every_cell_of_the_page_is_in_some_region(family_model: LoadedModel) -> None:
    """The page's own corners included; a box over all of it gives every token that shows a part of it, once."""
    for width, height in ((64, 64), (131, 40), (30, 97)):
        image = visual_tokens(family_model, [Image.new("RGB", (width, height))])[0]
        whole = image.region((0, 0, width, height))
        assert sorted(whole) == sorted(image.grid.ravel())
        assert len(set(whole.tolist())) == image.grid.size <= image.count
        assert image.region((0, 0, 0, 0)).tolist() == [image.grid[0, 0]]
        assert image.region((width, height, width, height)).tolist() == [image.grid[-1, -1]]


def test_tokens_in_the_prompt_are_the_pictures_own(family_model: LoadedModel) -> None:
    """Row ends, names of tiles and thumbnails lie between; regions hold picture tokens alone, in their order."""
    pictures = [Image.new("RGB", (64, 64)), Image.new("RGB", (40, 88))]
    prompt = ask(family_model, pictures)
    ids = prompt.inputs["input_ids"][0].numpy()
    image_token = family_model.family.image_token_id(family_model.model.config)
    places = np.flatnonzero(ids == image_token)
    counted = visual_tokens(family_model, pictures)
    assert len(places) == sum(image.count for image in counted)
    first = 0
    for start, image, own in zip(prompt.image_starts, prompt.images, counted, strict=True):
        assert start == places[first]
        assert start + image.count - 1 == places[first + own.count - 1]
        assert (start + image.grid == places[first + own.grid]).all()
        first += own.count
    assert prompt.image_tokens == sum(image.count for image in prompt.images)


def test_region_covers_start_and_end_cell(small_model: Callable[[str], LoadedModel]) -> None:
    model = small_model("qwen2_vl")
    image = visual_tokens(model, [Image.new("RGB", (96, 64))])[0]
    assert image.grid.shape == (8, 12)
    assert image.region((9, 1, 23, 7)).tolist() == [1, 2]
    assert image.region((9, 1, 24, 8)).tolist() == [1, 2, 3, 13, 14, 15]  # "up to and including the end corner's cell"
    assert image.region((90, 60, 96, 64)).tolist() == [95]  # the page's own corner stays inside


def test_llava_base_tokens_come_first_and_rows_end_in_a_newline(small_model: Callable[[str], LoadedModel]) -> None:
    image = visual_tokens(small_model("llava_next_llama"), [Image.new("RGB", (64, 64))])[0]
    assert image.grid[0, 0] == 16  # 32 / 8 squared
    assert image.grid.shape == (8, 8)
    assert image.grid[1, 0] == 16 + 9
    assert image.count == 16 + 8 * 9


def test_onevision_shrinks_above_its_bound_and_gives_several_pictures_one_tile_each(
    small_model: Callable[[str], LoadedModel],
) -> None:
    model = small_model("llava_onevision")
    alone = visual_tokens(model, [Image.new("RGB", (64, 64))])[0]
    assert alone.grid.shape == (5, 5)  # 8 x 8 patches are sqrt(2) x above two bases of 4 x 4
    pair = visual_tokens(model, [Image.new("RGB", (64, 32)), Image.new("RGB", (64, 64))])
    assert [(image.grid.shape, image.count) for image in pair] == [((4, 4), 17)] * 2
    assert pair[0].region((0, 0, 1, 1)).tolist() == [4]  # below a quarter of padding


def test_a_row_of_pixtral_ends_in_a_break(small_model: Callable[[str], LoadedModel]) -> None:
    prompt = ask(small_model("pixtral"), [Image.new("RGB", (32, 16))])
    assert prompt.images[0].grid.tolist() == [[0, 1, 2, 3], [5, 6, 7, 8]]


def test_a_picture_of_gemma_sees_itself_both_ways(small_model: Callable[[str], LoadedModel]) -> None:
    pictures = [Image.new("RGB", (32, 16))] * 2
    prompt = ask(small_model("gemma3"), pictures)
    ids = prompt.inputs["input_ids"][0]
    assert [(ids[start:end] == 4).all().item() for start, end in prompt.spans] == [True, True]
    assert sum(end - start for start, end in prompt.spans) == (ids == 4).sum() == 32
    assert ask(small_model("mistral3"), pictures).spans == ()


def test_a_picture_token_in_a_text_is_no_place_for_a_picture(family_model: LoadedModel) -> None:
    place = family_model.family.place(family_model.model.config, family_model.tokenizer)
    picture = Image.new("RGB", (64, 64))
    prompt = ask(family_model, [picture], f"see {place} and <image>")
    assert (prompt.inputs["input_ids"] == 4).sum() == visual_tokens(family_model, [picture])[0].count
    assert len(ask(family_model, [], f"see {place}").images) == 0


def test_missing_pictures_are_refused(family_model: LoadedModel) -> None:
    with pytest.raises(InvalidParameter, match="1 places for pictures, got 0"):
        family_model.prepare([{"role": "user", "content": [{"type": "image"}]}], [])


@pytest.mark.parametrize("size", [(64, 64), (96, 48), (40, 88)])
def test_a_tokens_cell_leads_back_to_the_token(family_model: LoadedModel, size: tuple[int, int]) -> None:
    width, height = size
    image = ask(family_model, [Image.new("RGB", (width, height))]).images[0]
    x, y = image.x.edges(width), image.y.edges(height)
    assert (x[0], y[0]) >= (0, 0)
    assert (x[-1], y[-1]) <= (width, height)
    tokens = np.arange(-2, image.count + 3)  # text before and after the picture has no cell
    cells = image.cells_of(tokens)
    shown = cells >= 0
    assert sorted(tokens[shown].tolist()) == sorted(image.grid.ravel().tolist())
    for token, cell in zip(tokens[shown], cells[shown], strict=True):
        row, col = divmod(int(cell), len(x) - 1)
        middle = (x[col] + x[col + 1]) / 2, (y[row] + y[row + 1]) / 2
        assert image.region((*middle, *middle)).tolist() == [token]
