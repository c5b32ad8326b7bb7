"""Models of random weights that an engine serves as it serves real ones: a text model's shape, a tiny vision tower.

Nothing is read from disk, and pictures are never looked at: prompts are texts of random tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders
from tokenizers.models import WordLevel
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from benchmarks.skew import published_skew
from headmap.families.base import PreparedPrompt
from headmap.families.loading import LoadedModel, wrap_model
from headmap.head_scores import HeadScores
from headmap.models import ModelInfo

SEED = 0
_CONTROLS = ("<pad>", "<unk>", "<s>", "</s>", "<image>")
_IMAGE = _CONTROLS.index("<image>")
_POSITIONS = 65_536


@dataclass(frozen=True)
class ModelShape:
    """A family's text model in numbers."""

    name: str
    family: str
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int

    @property
    def scores(self) -> HeadScores:
        """A map as concentrated as the published one."""
        return published_skew(self.num_layers, self.num_heads, self.num_kv_heads)


VICUNA_7B = ModelShape("LLaVA-Vicuna 7 B", "llava_next", 32, 32, 32, 128, 11_008, 32_064)
QWEN2_VL_7B = ModelShape("Qwen2-VL 7 B", "qwen2_vl", 28, 28, 4, 128, 18_944, 152_064)
TINY_MHA = ModelShape("tiny MHA", "llava_next", 2, 4, 4, 16, 64, 300)
TINY_GQA = ModelShape("tiny GQA", "qwen2_vl", 2, 4, 2, 16, 64, 300)


def random_model(shape: ModelShape, dtype: torch.dtype, device: torch.device) -> LoadedModel:
    """Weights of one seed, made on the device."""
    torch.manual_seed(SEED)
    with torch.device(device):
        model: PreTrainedModel = AutoModelForImageTextToText.from_config(
            _config(shape), dtype=dtype, attn_implementation="sdpa"
        )
    model.eval()
    info = ModelInfo(
        name=shape.name, folder=Path("/"), revision="random", architecture=type(model).__name__, family=shape.family,
        num_layers=shape.num_layers, num_heads=shape.num_heads, num_kv_heads=shape.num_kv_heads,
        max_positions=_POSITIONS,
    )  # fmt: skip
    return wrap_model(info, model, _tokenizer(shape.vocabulary), None)


def random_prompt(loaded: LoadedModel, tokens: int, seed: int) -> PreparedPrompt:
    """A text of `tokens` random tokens, none of which is a control token."""
    random = torch.Generator().manual_seed(seed)
    vocabulary = loaded.model.config.get_text_config().vocab_size
    input_ids = torch.randint(len(_CONTROLS), vocabulary, (1, tokens), generator=random)
    positions, following = loaded.family.positions(loaded.model, input_ids, {})
    return PreparedPrompt({"input_ids": input_ids}, positions, following, (), ())


def step_weights(loaded: LoadedModel) -> int:
    """Bytes of the weights that a decode step reads: the text model's and the head's; of an embedding, only rows."""
    text, model = loaded.family.text_model(loaded.model), loaded.model
    embedding = model.get_input_embeddings().weight
    weights = {id(one): one for part in (text, model.lm_head) for one in part.parameters()}
    if model.lm_head.weight is not embedding:
        del weights[id(embedding)]
    return sum(one.nbytes for one in weights.values())


def _config(shape: ModelShape) -> PreTrainedConfig:
    text = {
        "hidden_size": shape.num_heads * shape.head_dim,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": _POSITIONS,
        "tie_word_embeddings": False,
        "bos_token_id": _CONTROLS.index("<s>"),
        "eos_token_id": _CONTROLS.index("</s>"),
        "pad_token_id": 0,
    }
    make: Mapping[str, Any] = {"llava_next": _llava_next, "qwen2_vl": _qwen2_vl}
    return make[shape.family](shape, text)


def _llava_next(shape: ModelShape, text: dict[str, Any]) -> PreTrainedConfig:
    vision = {
        "model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "image_size": 32, "patch_size": 8,
    }  # fmt: skip
    return AutoConfig.for_model(
        "llava_next", text_config={"model_type": "llama", **text}, vision_config=vision, image_token_index=_IMAGE,
        image_grid_pinpoints=[[32, 64]], tie_word_embeddings=False,
    )  # fmt: skip


def _qwen2_vl(shape: ModelShape, text: dict[str, Any]) -> PreTrainedConfig:
    time, side = shape.head_dim // 8, shape.head_dim * 3 // 16  # 16, 24 and 24 of 64 as Qwen2-VL has them
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [time, side, side]}
    vision = {
        "depth": 1, "embed_dim": 32, "hidden_size": text["hidden_size"], "num_heads": 2, "mlp_ratio": 2,
        "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2,
    }  # fmt: skip
    return AutoConfig.for_model(
        "qwen2_vl", text_config={**text, "rope_parameters": rope}, vision_config=vision, image_token_id=_IMAGE,
        vision_start_token_id=2, tie_word_embeddings=False,
    )  # fmt: skip


def _tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """A word for each token."""
    words = [*_CONTROLS, *(f"w{number}" for number in range(len(_CONTROLS), vocabulary))]
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        extra_special_tokens=["<image>"], chat_template="{{ messages[0]['content'] }}",
    )  # fmt: skip
