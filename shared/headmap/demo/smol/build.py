"""Build `headmap/smol-ocr` in the local Hub cache, where transformers and every service find it by its name."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from headmap.demo.smol.assets import build_config, write_assets
from headmap.demo.smol.language_model import SHA256, download, read_gguf
from headmap.demo.smol.model import merge, with_picture_tokens
from headmap.models import hub_cache

NAME = "headmap/smol-ocr"
PLAIN_NAME = "headmap/smol-ocr-plain"
TRAINED = Path(__file__).parent / "trained.safetensors"
"""The vision tower, its projector and the low-rank updates."""


def build(cache: Path | None = None, *, trained: Path = TRAINED, updated: bool = True) -> Path:
    """Write the model to the Hub cache `cache`, by default this machine's, and return its folder.

    Weights have the same bytes on every machine. `updated`: whether the language model has its low-rank updates;
    without them it is SmolLM2 itself. Raises RuntimeError as `download` does.
    """
    cache = cache or hub_cache()
    name = NAME if updated else PLAIN_NAME
    repo = cache / f"models--{name.replace('/', '--')}"
    commit = revision(trained, updated=updated)
    folder = repo / "snapshots" / commit
    if not (folder / "config.json").is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=repo) as temporary:
            unfinished = Path(temporary) / "model"
            write_model(unfinished, download(repo / "blobs"), trained, updated=updated)
            shutil.rmtree(folder, ignore_errors=True)
            unfinished.replace(folder)
    (repo / "refs").mkdir(exist_ok=True)
    (repo / "refs" / "main").write_text(commit, encoding="utf-8")
    return folder


def revision(trained: Path, *, updated: bool = True) -> str:
    """40 hex digits of what the model is made of."""
    digest = hashlib.sha256(f"{SHA256}:{updated}:".encode())
    digest.update(trained.read_bytes())
    return digest.hexdigest()[:40]


def write_model(folder: Path, gguf: Path, trained: Path, *, updated: bool = True) -> None:
    """Write an ordinary model folder: weights in bfloat16, configuration, tokenizer, template, processor."""
    language_model = with_picture_tokens(read_gguf(gguf))
    config = build_config(language_model.config, language_model.tokenizer)
    folder.mkdir(parents=True)
    state = merge(language_model.weights, load_file(trained), updated=updated)
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    config.dtype = torch.bfloat16
    config.save_pretrained(folder)
    write_assets(folder, language_model.tokenizer)
