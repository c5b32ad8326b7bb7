"""The KV cache by a model's config.json: the size of a token, and which layers slide."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from headmap.kvcache.shape import DTYPE_BYTES
from headmap.models import ModelInfo
from headmap.settings import Settings

_WINDOW = 4096


def _number(text: dict[str, Any], name: str, default: int) -> int:
    value = text.get(name)
    return value if isinstance(value, int) and value >= 0 else default


def _after_the_full_ones(layer: int, text: dict[str, Any]) -> bool:
    return layer >= _number(text, "max_window_layers", 80)


# model_type of text_config -> whether a layer slides, where config.json does not list `layer_types`
_SLIDE: dict[str, Callable[[int, dict[str, Any]], bool]] = {
    "gemma3_text": lambda layer, text: (layer + 1) % max(1, _number(text, "sliding_window_pattern", 6)) != 0,
    "mistral": lambda layer, text: True,
    "qwen2": lambda layer, text: layer >= _number(text, "max_window_layers", 28),
    "qwen2_vl": _after_the_full_ones,
    "qwen2_vl_text": _after_the_full_ones,
    "qwen2_5_vl": _after_the_full_ones,
    "qwen2_5_vl_text": _after_the_full_ones,
}


def bytes_per_token_per_head(info: ModelInfo, settings: Settings) -> int | None:
    """2 (key and value) x head size x bytes of the type; None if config.json does not say.

    The settings give the type, or else the checkpoint. A server may choose another type; then its bytes differ, and
    `details.kv` has them.
    """
    config, text = _configs(info)
    hidden = text.get("hidden_size")
    head_dim = text.get("head_dim") or (hidden // info.num_heads if isinstance(hidden, int) else None)
    own = text.get("dtype") or text.get("torch_dtype") or config.get("dtype") or config.get("torch_dtype")
    size = DTYPE_BYTES.get(settings.dtype if settings.dtype != "auto" else str(own))
    return None if not isinstance(head_dim, int) or size is None else 2 * head_dim * size


def sliding_layers(info: ModelInfo) -> tuple[int | None, tuple[int, ...]]:
    """The sliding window in tokens and the layers that have it; None and no layers if no layer slides.

    Missing fields get the defaults of transformers' configuration classes.
    """
    _, text = _configs(info)
    kind, layers = str(text.get("model_type")), range(info.num_layers)
    listed = text.get("layer_types") if isinstance(text.get("layer_types"), list) else None
    window = text.get("sliding_window", _WINDOW) if listed or kind in _SLIDE else None
    if kind.startswith("qwen") and not text.get("use_sliding_window"):
        window = None
    if not isinstance(window, int):
        return None, ()
    if listed:
        slide = [layer for layer in layers if listed[layer : layer + 1] == ["sliding_attention"]]
    else:
        slide = [layer for layer in layers if _SLIDE[kind](layer, text)]
    return (window, tuple(slide)) if slide else (None, ())


def _configs(info: ModelInfo) -> tuple[dict[str, Any], dict[str, Any]]:
    """The whole configuration and its text model's; both are empty if the file cannot be read."""
    try:
        config: dict[str, Any] = json.loads((info.folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}, {}
    return config, config.get("text_config") or config
