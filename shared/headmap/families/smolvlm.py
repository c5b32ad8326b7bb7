"""SmolVLM: see `idefics3`."""

from __future__ import annotations

from headmap.families.idefics3 import Idefics3


class SmolVLM(Idefics3):
    name = "smolvlm"
