"""Qwen2-VL: see `qwen`."""

from __future__ import annotations

from headmap.families.qwen import QwenVL


class Qwen2VL(QwenVL):
    name = "qwen2_vl"
