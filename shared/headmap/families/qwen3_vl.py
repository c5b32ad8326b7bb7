"""Qwen3-VL: Qwen2-VL's tokens; deeper vision features are added to its first layers, within the model itself."""

from __future__ import annotations

from headmap.families.qwen import QwenVL


class Qwen3VL(QwenVL):
    name = "qwen3_vl"
