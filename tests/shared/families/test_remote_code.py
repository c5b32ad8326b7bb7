"""Code that comes with a model runs only where the settings name the model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from headmap.families.loading import load_model
from headmap.models import find_model, read_model
from headmap.settings import Settings


def test_code_in_a_models_folder_is_never_run(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    folder, marker = tmp_path / "model", tmp_path / "ran"
    shutil.copytree(model_folder("qwen2_vl"), folder)
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w').close()\nclass Evil: pass\n")
    everything = (
        *("AutoConfig", "AutoModel", "AutoModelForImageTextToText", "AutoTokenizer", "AutoImageProcessor"),
        *("AutoProcessor", "AutoModelForCausalLM"),
    )
    for name in ("config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json"):
        path = folder / name
        content = json.loads(path.read_text()) if path.is_file() else {}
        content["auto_map"] = dict.fromkeys(everything, "evil.Evil")
        path.write_text(json.dumps(content))
    loaded = load_model(read_model("evil", folder), device="cpu")
    assert type(loaded.model).__module__.startswith("transformers.models.")
    assert not marker.exists()


def test_code_of_a_model_that_is_trusted_runs_and_no_others(
    model_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    marker = tmp_path / "ran"
    for name in ("trusted", "other"):
        shutil.copytree(model_folder("qwen2_vl"), tmp_path / "models" / name)
        code = "from transformers import Qwen2VLForConditionalGeneration\n"
        code += f"open({str(marker)!r}, 'a').write({name!r})\nclass Own(Qwen2VLForConditionalGeneration): pass\n"
        (tmp_path / "models" / name / "own.py").write_text(code)
        path = tmp_path / "models" / name / "config.json"
        config = json.loads(path.read_text()) | {"auto_map": {"AutoModelForImageTextToText": "own.Own"}}
        path.write_text(json.dumps(config))
    settings = Settings(model_dirs=(tmp_path / "models",), trust_remote_code=("trusted",))
    loaded = {name: load_model(find_model(name, settings), device="cpu") for name in ("other", "trusted")}
    assert {name: type(one.model).__name__ for name, one in loaded.items()} == {
        "other": "Qwen2VLForConditionalGeneration",
        "trusted": "Own",
    }
    assert set(marker.read_text().split("trusted")) == {""}
    assert not Settings().trust_remote_code
