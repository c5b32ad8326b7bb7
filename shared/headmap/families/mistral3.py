"""Mistral 3: Pixtral's vision with merged patches; see `pixtral`."""

from __future__ import annotations

from headmap.families.pixtral import Pixtral


class Mistral3(Pixtral):
    name = "mistral3"
