"""The size of one token's key and value in one KV head, from a model's config.json."""

from __future__ import annotations

import json
from typing import Any

from headmap.models import ModelInfo
from headmap.settings import Settings

_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


def bytes_per_token_per_head(info: ModelInfo, settings: Settings) -> int | None:
    """2 (key and value) x head size x bytes of the type; None where config.json does not tell.

    The type is the settings' where they name one, else the checkpoint's; a server that chooses another by itself keeps
    bytes accordingly, and says so in `details.kv`.
    """
    try:
        config: dict[str, Any] = json.loads((info.folder / "config.json").read_text())
    except (OSError, ValueError):
        return None
    text: dict[str, Any] = config.get("text_config") or config
    hidden = text.get("hidden_size")
    head_dim = text.get("head_dim") or (hidden // info.num_heads if isinstance(hidden, int) else None)
    own = text.get("dtype") or text.get("torch_dtype") or config.get("dtype") or config.get("torch_dtype")
    size = _BYTES.get(settings.dtype if settings.dtype != "auto" else str(own))
    return None if not isinstance(head_dim, int) or size is None else 2 * head_dim * size
