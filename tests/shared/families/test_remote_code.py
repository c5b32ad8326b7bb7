"""Code that comes with a model does not run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from headmap.families.loading import load_model
from headmap.models import read_model


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
