"""Budgets as part of a model's name: `MODEL@full` and `MODEL@METHOD-RATIO`."""

from __future__ import annotations

import re

from headmap.kvcache.methods import METHODS

_DECIMAL = re.compile(r".+-\d*\.\d+")


def names_a_budget(text: str) -> bool:
    """Whether `text` is read as METHOD or METHOD-RATIO, valid or not, and so cannot be used as another name.

    This holds for a method's name, for text that begins with a method's name and a dash, and for text that ends in a
    dash and a decimal number. The last case covers methods that this code does not know.
    """
    return text in METHODS or text.startswith(tuple(f"{name}-" for name in METHODS)) or bool(_DECIMAL.fullmatch(text))
