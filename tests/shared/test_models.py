"""Which models are here: the bundled one, folders the settings name, and the local Hub cache."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from headmap.errors import ModelNotFound, UnsupportedModel
from headmap.families.registry import FAMILIES, TEXT_DEFAULTS
from headmap.models import cached_models, find_model, fingerprint, list_models, models_here
from headmap.settings import DEMO_MODEL, Settings

CONFIG: dict[str, Any] = {
    "model_type": "qwen2_vl",
    "architectures": ["Qwen2VLForConditionalGeneration"],
    "text_config": {"num_attention_heads": 8, "num_hidden_layers": 6, "num_key_value_heads": 4},
}


def make(folder: Path, config: dict[str, Any] = CONFIG, weights: bytes = b"weights") -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def test_the_bundled_model_is_always_here() -> None:
    info = find_model(DEMO_MODEL, Settings(models=()))
    assert info.family == "qwen2_vl"
    assert info.num_heads % info.num_kv_heads == 0
    assert info.revision.startswith("sha256:")


def test_folders_below_a_model_dir_are_models_by_name(tmp_path: Path) -> None:
    make(tmp_path / "one")
    (tmp_path / "empty").mkdir()
    make(tmp_path / "other", {"model_type": "bert"})
    settings = Settings(model_dirs=(tmp_path,))
    info = find_model("one", settings)
    assert (info.num_layers, info.num_heads, info.num_kv_heads, info.folder) == (6, 8, 4, tmp_path / "one")
    assert find_model(str(tmp_path / "one"), settings).folder == tmp_path / "one"
    assert [model.name for model in list_models(settings)] == [DEMO_MODEL, "one"]
    here = {(name, info.revision) for name in ("one", str(tmp_path / "one"))}
    assert models_here(settings) - here == {(DEMO_MODEL, find_model(DEMO_MODEL, settings).revision)}
    assert models_here(settings) >= here


def test_a_folder_that_is_not_listed_is_not_opened(tmp_path: Path) -> None:
    folder = make(tmp_path / "one")
    with pytest.raises(ModelNotFound):
        find_model(str(folder), Settings())
    assert find_model(str(folder), Settings(models=(str(folder),))).folder == folder


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", "a/../b", "/etc", "a" * 600, "x\x00y", "é/ü"])
def test_unknown_names_are_not_found(name: str) -> None:
    with pytest.raises(ModelNotFound):
        find_model(name, Settings())


@pytest.mark.parametrize(
    "config", [{}, {"model_type": "bert"}, {"model_type": "qwen2_vl"}, {"model_type": "llava_next", "text_config": {}}]
)
def test_models_we_cannot_serve_are_unsupported(tmp_path: Path, config: dict[str, Any]) -> None:
    make(tmp_path / "one", config)
    with pytest.raises(UnsupportedModel):
        find_model("one", Settings(model_dirs=(tmp_path,)))


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"model_type": "mllama"}, "cross-attention layers, not as tokens of the prompt"),
        ({"model_type": "blip-2"}, "learned queries, which show no place of the picture"),
        ({"model_type": "llava", "vision_config": {"model_type": "clip_vision_model"}}, "served are gemma3, idefics3"),
        ({"model_type": "qwen2_vl"}, "does not say its layers and heads"),
    ],
)
def test_a_refusal_says_why(tmp_path: Path, config: dict[str, Any], why: str) -> None:
    make(tmp_path / "one", config)
    with pytest.raises(UnsupportedModel, match=why):
        find_model("one", Settings(model_dirs=(tmp_path,)))


def test_pixtral_is_a_llava_with_pixtrals_vision(tmp_path: Path) -> None:
    text = {"model_type": "mistral", "num_hidden_layers": 40, "head_dim": 128}
    make(tmp_path / "one", {"model_type": "llava", "vision_config": {"model_type": "pixtral"}, "text_config": text})
    info = find_model("one", Settings(model_dirs=(tmp_path,)))
    assert (info.family, info.num_layers, info.num_heads, info.num_kv_heads) == ("pixtral", 40, 32, 8)


@pytest.mark.parametrize("model_type", TEXT_DEFAULTS)
def test_what_a_config_leaves_out_is_as_its_class_has_it(model_type: str) -> None:
    """LLaVA-NeXT's Vicuna and Gemma 3 are on the Hub without their numbers of layers or heads."""
    from transformers import CONFIG_MAPPING

    config = CONFIG_MAPPING[model_type]()
    assert TEXT_DEFAULTS[model_type] == {name: getattr(config, name) for name in TEXT_DEFAULTS[model_type]}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_found_under_its_name(name: str) -> None:
    assert FAMILIES[name].load().name == name


def test_no_family_has_been_left_unregistered() -> None:
    from headmap import families

    sources = "".join(path.read_text() for path in Path(families.__path__[0]).glob("*.py"))
    assert set(re.findall(r'^    name = "(\w+)"$', sources, re.MULTILINE)) == set(FAMILIES)


def test_a_config_that_cannot_be_read_is_unsupported(tmp_path: Path) -> None:
    (make(tmp_path / "one") / "config.json").write_text("{")
    with pytest.raises(UnsupportedModel):
        find_model("one", Settings(model_dirs=(tmp_path,)))


def test_a_fingerprint_changes_with_weights_and_config_only(tmp_path: Path) -> None:
    one = make(tmp_path / "one")
    two = make(tmp_path / "two")
    assert fingerprint(one) == fingerprint(two)
    (two / "evaluation.json").write_text("{}")
    (two / "README.md").write_text("text")
    assert fingerprint(one) == fingerprint(two)
    (two / "model.safetensors").write_bytes(b"Weights")
    assert fingerprint(one) != fingerprint(two)


def test_another_revision_of_a_folder_is_not_here(tmp_path: Path) -> None:
    make(tmp_path / "one")
    settings = Settings(model_dirs=(tmp_path,))
    revision = find_model("one", settings).revision
    assert find_model("one", settings, revision).revision == revision
    with pytest.raises(ModelNotFound, match="v2"):
        find_model("one", settings, "v2")


def test_hub_models_are_found_in_the_local_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    repo = tmp_path / "models--some--model"
    make(repo / "snapshots" / "c0ffee")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("c0ffee\n")
    make(repo / "snapshots" / "older")
    settings = Settings(models=("some/model", "other/model"))
    assert models_here(settings) == {("some/model", "c0ffee"), ("some/model", "older")} | models_here(Settings())
    assert [(info.name, info.revision) for info in cached_models()] == [("some/model", "c0ffee")]
    for revision in (None, "main", "c0ffee"):
        assert find_model("some/model", settings, revision).revision == "c0ffee"
    for name, revision in (("some/model", "v2"), ("some/model", "../x"), ("other/model", None)):
        with pytest.raises(ModelNotFound):
            find_model(name, settings, revision)
