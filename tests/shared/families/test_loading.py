"""What a loaded model takes from its files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headmap.families.loading import load_model
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
