"""Qwen2.5-VL: Qwen2-VL's tokens and positions; its vision tower attends in windows, but gives patches back in order."""

from __future__ import annotations

from headmap.families.qwen import QwenVL


class Qwen25VL(QwenVL):
    name = "qwen2_5_vl"
