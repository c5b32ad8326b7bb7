"""Qwen2.5-VL: tokens and positions of Qwen2-VL. Its vision tower attends in windows but returns patches in order."""

from __future__ import annotations

from headmap.families.qwen import QwenVL


class Qwen25VL(QwenVL):
    name = "qwen2_5_vl"
