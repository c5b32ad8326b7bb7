"""Edits between two sequences: insertions, deletions and substitutions, each at 1 (Levenshtein 1966)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def edit_distance(a: Sequence[str], b: Sequence[str]) -> int:
    """The fewest edits that turn `a` into `b`: characters of two texts, or two lists of words."""
    codes = {item: code for code, item in enumerate({*a, *b})}
    other = np.array([codes[item] for item in b], dtype=np.int64)
    places = np.arange(len(b) + 1)
    row = places.copy()
    for done, item in enumerate(a, start=1):
        changed = row[:-1] + (other != codes[item])
        without = np.concatenate([[done], np.minimum(changed, row[1:] + 1)])
        row = np.minimum.accumulate(without - places) + places  # insertions go on from the best place before
    return int(row[-1])
