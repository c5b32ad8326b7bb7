"""Qwen3-VL: tokens of Qwen2-VL. The model itself adds deeper vision features to its first layers."""

from __future__ import annotations

from headmap.families.qwen import QwenVL


class Qwen3VL(QwenVL):
    name = "qwen3_vl"
