"""What a loaded model takes from its files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headmap.errors import EmptyPrompt, InvalidParameter
from headmap.families.loading import LoadedModel, load_model
from headmap.models import read_model

OF_TOKENIZER, CONTROL, ORDINARY, GENERATION = 3, 1, 20, 60


@pytest.mark.parametrize("told", [GENERATION, [GENERATION, 61], None], ids=["one", "several", "none"])
def test_an_answer_ends_where_any_of_its_files_says_so(
    model_folder: Callable[[str], Path], tmp_path: Path, told: int | list[int] | None
) -> None:
    """The tokenizer's own end counts beside the generation settings', the config's where it is a control token."""
    folder = tmp_path / "model"
    shutil.copytree(model_folder("qwen2_vl"), folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": told}))
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    config["text_config"]["eos_token_id"] = [CONTROL, ORDINARY]
    (folder / "config.json").write_text(json.dumps(config))
    loaded = load_model(read_model("ending", folder), device="cpu")
    assert loaded.tokenizer.eos_token_id == OF_TOKENIZER
    expected = {CONTROL, OF_TOKENIZER, *([] if told is None else [told] if isinstance(told, int) else told)}
    assert loaded.eos_token_ids == expected


def test_a_model_of_several_templates_has_one_for_tools(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model_folder("qwen2_vl"), folder)
    more = folder / "additional_chat_templates"
    more.mkdir()
    (more / "tool_use.jinja").write_text("{{ tools[0].name }} {{ deep }}:", encoding="utf-8")
    loaded = load_model(read_model("several", folder), device="cpu")
    said = [{"role": "user", "content": "Hi"}]
    assert loaded.template_knows_tools
    assert loaded.template_names >= {"tools", "deep", "messages", "add_generation_prompt"}
    assert "deep" in loaded.template_text
    assert "messages" in loaded.template_text

    def text(*args: Any) -> str:
        return loaded.decode(loaded.prepare(said, [], *args).inputs["input_ids"][0].tolist())

    assert text() == "USER: Hi ASSISTANT:"
    assert text([{"name": "see"}], {"deep": 3}) == "see 3:"


def test_a_prompt_of_token_ids_is_taken_as_it_is(small_model: Callable[[str], LoadedModel]) -> None:
    model = small_model("qwen2_vl")
    assert not model.template_knows_tools
    size = model.model.config.get_text_config().vocab_size
    prompt = model.prepare_tokens((0, size - 1, 3))
    assert prompt.inputs["input_ids"].tolist() == [[0, size - 1, 3]]
    assert (prompt.next_position, prompt.images, prompt.spans) == (3, (), ())
    assert prompt.position_ids.tolist() == model.prepare_text("abc").position_ids.tolist()
    image = model.family.image_token_id(model.model.config)
    for token, why in (
        (-1, "is not a token"),
        (size, "is not a token"),
        (2**70, "is not a token"),
        (image, "a picture"),
    ):
        with pytest.raises(InvalidParameter, match=why) as caught:
            model.prepare_tokens((5, token))
        assert caught.value.param == "prompt.1"
    with pytest.raises(EmptyPrompt) as empty:
        model.prepare_tokens(())
    assert empty.value.param == "prompt"
