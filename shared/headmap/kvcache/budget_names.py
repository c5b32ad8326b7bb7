"""Budgets as part of a model's name: `MODEL@full` and `MODEL@METHOD-RATIO`."""

from __future__ import annotations

import re

from headmap.kvcache.methods import METHODS

_DECIMAL = re.compile(r".+-\d*\.\d+")


def names_a_budget(text: str) -> bool:
    """Whether `text` is read as METHOD or METHOD-RATIO, right or wrong, and so is free for no other use.

    That is a method's name, whatever begins with one and a dash, and whatever ends in a dash and a decimal number: a
    method that this code does not know.
    """
    return text in METHODS or text.startswith(tuple(f"{name}-" for name in METHODS)) or bool(_DECIMAL.fullmatch(text))
