"""Find the models on this machine by name, and read their config.json, without torch.

A model is the bundled one, a local folder, or a Hub id that lies in the local Hub cache. Folders named in requests are
taken only where the settings list them; `headmap score FOLDER` and `headmap up --model FOLDER` list theirs.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headmap.errors import ModelNotFound, UnsupportedModel
from headmap.families.registry import FAMILIES, REFUSED, TEXT_DEFAULTS, family_of

if TYPE_CHECKING:
    from headmap.settings import Settings

DEMO_MODEL = "headmap/demo-ocr"
DEMO_FOLDER = Path(__file__).parent / "demo" / "model"
HEAD_MAP = "head_map.json"
"""The file of a model's folder that holds its map."""

_ABOUT_IT = ("evaluation.json", HEAD_MAP)  # what was measured of a model is no part of it
_SAMPLE = 1 << 16
_SAMPLES_PER_FILE = 64


@dataclass(frozen=True)
class ModelInfo:
    """A model's folder, and its shape from config.json."""

    name: str
    folder: Path
    revision: str
    """The Hub's commit, or `sha256:...`, a fingerprint of the local folder."""
    architecture: str
    family: str
    num_layers: int
    num_heads: int
    num_kv_heads: int
    max_positions: int
    trust_remote_code: bool = False
    """Whether Python code of the folder may run: only where the settings name the model."""


def find_model(name: str, settings: Settings, revision: str | None = None) -> ModelInfo:
    """The model called `name`. Raises ModelNotFound, or UnsupportedModel for a model of no family."""
    folder = _folder(name, settings, revision)
    if folder is None:
        raise ModelNotFound(f"model: {name!r} is not here; {_suggestion(name, settings)}", param="model")
    info = read_model(name, folder)
    if revision is not None and revision != info.revision and not _is_hub_snapshot(folder):
        raise ModelNotFound(
            f"revision: {name!r} is here in revision {info.revision}, got {revision!r}", param="revision"
        )
    return replace(info, trust_remote_code=name in settings.trust_remote_code)


def list_models(settings: Settings) -> list[ModelInfo]:
    """Every model that is here and of a family we serve, by name."""
    return _served((name, _folder(name, settings, None)) for name in sorted(_names(settings)))


def cached_models() -> list[ModelInfo]:
    """Every model in the local Hub cache, at its revision `main`, that is of a family we serve, by name.

    The settings decide which of them are served and profiled.
    """
    repos = sorted(hub_cache().glob("models--*--*"))
    names = [repo.name.removeprefix("models--").replace("--", "/") for repo in repos]
    return _served((name, _hub_snapshot(name, None)) for name in names)


def _served(places: Iterable[tuple[str, Path | None]]) -> list[ModelInfo]:
    """The models among some folders, without those that are missing or of a family we do not serve."""
    found = []
    for name, folder in places:
        if folder is None:
            continue
        try:
            found.append(read_model(name, folder))
        except UnsupportedModel:
            continue
    return found


def models_here(settings: Settings) -> set[tuple[str, str]]:
    """Every model that this host can load, as (name, revision), by any name that a job may have for it.

    Of a Hub id, that is each revision in the local Hub cache; of a folder in a model folder, its path as well.
    """
    found = {(info.name, info.revision) for info in list_models(settings)}
    paths = dict(_in_model_dirs(settings))
    found |= {(str(paths[name]), revision) for name, revision in found if name in paths}
    for name in settings.models:
        repo = _hub_repo(name)
        if repo is None:
            continue
        for snapshot in repo.glob("snapshots/*"):
            folder = _folder(name, settings, snapshot.name)
            if folder == snapshot:
                try:
                    found.add((name, read_model(name, folder).revision))
                except UnsupportedModel:
                    continue
    return found


def read_model(name: str, folder: Path) -> ModelInfo:
    """Read `folder`/config.json. Raises UnsupportedModel if it is no model of a family that is served."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnsupportedModel(f"model: {name!r} has no readable config.json ({error})", param="model") from error
    model_type = config.get("model_type")
    family = family_of(config)
    if family is None:
        why = REFUSED.get(str(model_type), f"served are {', '.join(FAMILIES)}")
        raise UnsupportedModel(f"model: {name!r} is of type {model_type!r}; {why}", param="model")
    text: dict[str, Any] = config.get("text_config") or config
    text = {**TEXT_DEFAULTS.get(str(text.get("model_type")), {}), **text}
    heads = int(text.get("num_attention_heads", 0))
    layers = int(text.get("num_hidden_layers", 0))
    if heads < 1 or layers < 1:
        raise UnsupportedModel(f"model: {name!r} does not say its layers and heads in config.json", param="model")
    return ModelInfo(
        name=name,
        folder=folder,
        revision=folder.name if _is_hub_snapshot(folder) else fingerprint(folder),
        architecture=(config.get("architectures") or [model_type])[0],
        family=family.name,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=int(text.get("num_key_value_heads") or heads),
        max_positions=int(text.get("max_position_embeddings", 4096)),
    )


def fingerprint(folder: Path) -> str:
    """`sha256:` and 16 hex digits over a folder's JSON files and evenly spaced samples of its weights.

    Samples avoid reading 15 GB to name a model, but miss an edit between them that keeps every size.
    """
    digest = hashlib.sha256()
    files = [path for path in folder.iterdir() if path.suffix in (".json", ".jinja", ".safetensors", ".model", ".txt")]
    for path in sorted(files):
        if path.name in _ABOUT_IT:
            continue
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}:".encode())
        with path.open("rb") as file:
            if size <= _SAMPLE * _SAMPLES_PER_FILE:
                digest.update(file.read())
                continue
            for index in range(_SAMPLES_PER_FILE):
                file.seek((size - _SAMPLE) * index // (_SAMPLES_PER_FILE - 1))
                digest.update(file.read(_SAMPLE))
    return f"sha256:{digest.hexdigest()[:16]}"


def _suggestion(name: str, settings: Settings) -> str:
    """List the models that are here, and suggest the one with the most similar name."""
    here = sorted(known for known in _names(settings) if _folder(known, settings, None) is not None)
    near = get_close_matches(name, here, n=1)
    return (f"did you mean {near[0]!r}? " if near else "") + f"here are {', '.join(here)}"


def _names(settings: Settings) -> set[str]:
    return {DEMO_MODEL, *settings.models, *(name for name, _ in _in_model_dirs(settings))}


def _in_model_dirs(settings: Settings) -> Iterator[tuple[str, Path]]:
    for parent in settings.model_dirs:
        if parent.is_dir():
            yield from ((path.name, path) for path in sorted(parent.iterdir()) if (path / "config.json").is_file())


def _folder(name: str, settings: Settings, revision: str | None) -> Path | None:
    if name == DEMO_MODEL:
        return DEMO_FOLDER
    for found, path in _in_model_dirs(settings):
        if name in (found, str(path)):
            return path
    if name not in settings.models:
        return None
    local = Path(name).expanduser()
    if (local / "config.json").is_file():
        return local.absolute()
    return _hub_snapshot(name, revision)


def hub_cache() -> Path:
    """The folder of the local Hub cache."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface"))
    return Path(os.environ.get("HF_HUB_CACHE", home / "hub")).expanduser()


def _hub_repo(name: str) -> Path | None:
    """The folder of a Hub id in the local cache, whether it exists or not; None for a name that is no Hub id."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or ".." in name:
        return None
    return hub_cache() / f"models--{name.replace('/', '--')}"


def _hub_snapshot(name: str, revision: str | None) -> Path | None:
    """The snapshot folder of a Hub id in the local cache (layout: models--ORG--NAME/{refs,snapshots})."""
    repo = _hub_repo(name)
    revision = revision or "main"
    if repo is None or not re.fullmatch(r"[\w.-]+", revision) or ".." in revision:
        return None
    ref = repo / "refs" / revision
    commit = ref.read_text(encoding="utf-8").strip() if ref.is_file() else revision
    folder = repo / "snapshots" / commit
    return folder if (folder / "config.json").is_file() else None


def _is_hub_snapshot(folder: Path) -> bool:
    return folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--")
