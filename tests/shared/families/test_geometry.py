"""Where visual tokens lie, by experiment: change the pixels of one cell and see which embedding moves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from headmap.errors import InvalidParameter
from headmap.families.base import PreparedPrompt
from headmap.families.loading import LoadedModel


def prepare(model: LoadedModel, pixels: np.ndarray) -> PreparedPrompt:
    content = [{"type": "image"}, {"type": "text", "text": "What?"}]
    return model.prepare([{"role": "user", "content": content}], [Image.fromarray(pixels)])


def patch_inputs(model: LoadedModel, prompt: PreparedPrompt) -> np.ndarray:
    """(visual tokens, features): what each visual token is made of before any token sees another."""
    pixels = prompt.inputs["pixel_values"]
    if model.family.name == "qwen2_vl":
        merge = model.model.config.vision_config.spatial_merge_size**2
        return pixels.reshape(prompt.image_tokens, -1, pixels.shape[-1])[:, :merge].flatten(1).numpy()
    config = model.model.config
    patch = config.vision_config.patch_size
    tiles = torch.nn.functional.unfold(pixels[0], patch, stride=patch).transpose(1, 2)
    features, _ = model.model.model.pack_image_features(
        [tiles], prompt.inputs["image_sizes"], "default", image_newline=torch.zeros(tiles.shape[-1])
    )
    return features[0].numpy()


@pytest.mark.parametrize("size", [(64, 64), (96, 48), (40, 88)])
def test_a_changed_cell_moves_its_token_alone(any_model: LoadedModel, size: tuple[int, int]) -> None:
    width, height = size
    pixels = np.full((height, width, 3), 90, dtype=np.uint8)
    before = prepare(any_model, pixels)
    image = before.images[0]
    rows, cols = image.grid.shape
    for row, col in ((0, 0), (rows // 2, cols // 2), (rows - 1, cols - 1)):
        # the middle of the cell, so that resampling does not bleed into its neighbours
        x = (col + 0.5 - image.x.offset) / image.x.scale
        y = (row + 0.5 - image.y.offset) / image.y.scale
        changed = pixels.copy()
        changed[max(int(y) - 1, 0) : int(y) + 1, max(int(x) - 1, 0) : int(x) + 1] = 255
        moved = np.abs(patch_inputs(any_model, prepare(any_model, changed)) - patch_inputs(any_model, before)).max(1)
        tiles_only = moved[image.grid.ravel()]
        assert image.grid.ravel()[tiles_only.argmax()] == image.grid[row, col]
        assert image.region((x, y, x, y)).tolist() == [image.grid[row, col]]


def test_region_covers_start_and_end_cell(small_model: Callable[[str], LoadedModel]) -> None:
    model = small_model("qwen2_vl")
    image = prepare(model, np.zeros((64, 96, 3), dtype=np.uint8)).images[0]
    assert image.grid.shape == (8, 12)
    assert image.region((9, 1, 23, 7)).tolist() == [1, 2]
    assert image.region((9, 1, 24, 8)).tolist() == [1, 2, 3, 13, 14, 15]  # "up to and including the end corner's cell"
    assert image.region((90, 60, 96, 64)).tolist() == [95]  # the page's own corner stays inside


def test_llava_base_tokens_come_first_and_rows_end_in_a_newline(small_model: Callable[[str], LoadedModel]) -> None:
    image = prepare(small_model("llava_next_llama"), np.zeros((64, 64, 3), dtype=np.uint8)).images[0]
    assert image.grid[0, 0] == 16  # 32 / 8 squared
    assert image.grid.shape == (8, 8)
    assert image.grid[1, 0] == 16 + 9
    assert image.count == 16 + 8 * 9


def test_several_pictures_lie_one_after_the_other(any_model: LoadedModel) -> None:
    content = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "What?"}]
    pictures = [Image.new("RGB", (64, 64)), Image.new("RGB", (40, 88))]
    prompt = any_model.prepare([{"role": "user", "content": content}], pictures)
    ids = prompt.inputs["input_ids"][0]
    for start, image in zip(prompt.image_starts, prompt.images, strict=True):
        assert (ids[start : start + image.count] == 4).all()
    assert (ids == 4).sum() == prompt.image_tokens


def test_a_picture_token_in_a_text_is_no_place_for_a_picture(any_model: LoadedModel) -> None:
    content = [{"type": "image"}, {"type": "text", "text": "see <image>"}]
    prompt = any_model.prepare([{"role": "user", "content": content}], [Image.new("RGB", (64, 64))])
    assert (prompt.inputs["input_ids"] == 4).sum() == prompt.image_tokens
    assert len(any_model.prepare([{"role": "user", "content": "see <image>"}], []).images) == 0


def test_missing_pictures_are_refused(any_model: LoadedModel) -> None:
    with pytest.raises(InvalidParameter, match="1 places for pictures, got 0"):
        any_model.prepare([{"role": "user", "content": [{"type": "image"}]}], [])


@pytest.mark.parametrize("size", [(64, 64), (96, 48), (40, 88)])
def test_a_tokens_cell_leads_back_to_the_token(any_model: LoadedModel, size: tuple[int, int]) -> None:
    width, height = size
    image = prepare(any_model, np.zeros((height, width, 3), dtype=np.uint8)).images[0]
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
