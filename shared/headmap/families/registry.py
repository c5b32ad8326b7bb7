"""The list of served families, and the defaults for values missing in config.json. It does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headmap.families.base import Family


@dataclass(frozen=True)
class RegisteredFamily:
    """A family: its module in this package, its class, and how config.json identifies its models."""

    name: str
    class_name: str
    model_type: str
    vision_type: str | None = None
    """The required type in `vision_config`, if `model_type` alone does not identify the family."""

    def matches(self, config: Mapping[str, Any]) -> bool:
        if config.get("model_type") != self.model_type:
            return False
        return self.vision_type in (None, (config.get("vision_config") or {}).get("model_type"))

    def load(self) -> Family:
        """Import the family's module, and torch with it."""
        family: type[Family] = getattr(import_module(f"headmap.families.{self.name}"), self.class_name)
        return family()


FAMILIES = {
    family.name: family
    for family in (
        RegisteredFamily("gemma3", "Gemma3", "gemma3"),
        RegisteredFamily("idefics3", "Idefics3", "idefics3"),
        RegisteredFamily("internvl", "InternVL", "internvl"),
        RegisteredFamily("llava_next", "LlavaNext", "llava_next"),
        RegisteredFamily("llava_onevision", "LlavaOnevision", "llava_onevision"),
        RegisteredFamily("mistral3", "Mistral3", "mistral3"),
        RegisteredFamily("pixtral", "Pixtral", "llava", vision_type="pixtral"),
        RegisteredFamily("qwen2_5_vl", "Qwen25VL", "qwen2_5_vl"),
        RegisteredFamily("qwen2_vl", "Qwen2VL", "qwen2_vl"),
        RegisteredFamily("qwen3_vl", "Qwen3VL", "qwen3_vl"),
        RegisteredFamily("smolvlm", "SmolVLM", "smolvlm"),
    )
}

# model_type of models that cannot be served -> why
REFUSED = {
    "blip-2": "its pictures come as learned queries, which show no place of the picture",
    "instructblip": "its pictures come as learned queries, which show no place of the picture",
    "idefics": "its pictures come in through cross-attention layers, not as tokens of the prompt: there is no cache of "
    "visual tokens to size",
    "mllama": "its pictures come in through cross-attention layers, not as tokens of the prompt: there is no cache of "
    "visual tokens to size",
}

# model_type of text_config -> defaults of its configuration class for values missing in config.json
TEXT_DEFAULTS: dict[str, dict[str, int]] = {
    "gemma3_text": {
        "num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 131072,
    },
    "llama": {"num_hidden_layers": 32, "num_attention_heads": 32, "max_position_embeddings": 2048},
    "mistral": {
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 131072,
    },
    "qwen2": {
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 32768,
    },
}  # fmt: skip


def family_of(config: Mapping[str, Any]) -> RegisteredFamily | None:
    """The family of the model with this config.json, or None if no family fits."""
    return next((family for family in FAMILIES.values() if family.matches(config)), None)
