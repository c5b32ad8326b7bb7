"""The texts of made-up pages: words, names, goods and labels in some languages and three scripts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from headmap.scoring.pages import Draw

_ENGLISH_SHARE = 2
"""Of so many pages one is in English; the others share the rest."""


@dataclass(frozen=True)
class Language:
    """The lists of one entry of `languages.json`."""

    words: list[str]
    nouns: list[str]
    first: list[str]
    last: list[str]
    towns: list[str]
    streets: list[str]
    shops: list[str]
    items: list[str]
    signs: list[str]
    forms: list[str]
    reports: list[str]
    tables: list[str]
    labels: Mapping[str, str]

    @property
    def text(self) -> str:
        """All of its text, to see which fonts can write it."""
        lists = (value for value in vars(self).values() if isinstance(value, list))
        return "".join("".join(entries) for entries in lists) + "".join(self.labels.values())


def pick_language(draw: Draw) -> Language:
    languages = all_languages()
    if draw.integer(1, _ENGLISH_SHARE) == 1:
        return languages["en"]
    return draw.choice([language for name, language in languages.items() if name != "en"])


def person(draw: Draw, language: Language) -> str:
    return f"{draw.choice(language.first)} {draw.choice(language.last)}"


def date(draw: Draw) -> str:
    day, month, year = draw.integer(1, 28), draw.integer(1, 12), draw.integer(1995, 2029)
    return draw.choice([f"{day:02d}.{month:02d}.{year}", f"{year}-{month:02d}-{day:02d}", f"{day}/{month}/{year}"])


def code(draw: Draw) -> str:
    """A reference such as `KX-4821-07`."""
    letters = draw.string("ABCDEFGHKLMNPRSTUVWXZ", 2, 3)
    return f"{letters}-{draw.integer(1000, 9999)}-{draw.integer(0, 99):02d}"


def sentence(draw: Draw, language: Language) -> list[str]:
    """Words of the language in random order."""
    words = [
        draw.choice(language.nouns if draw.integer(0, 3) == 0 else language.words) for _ in range(draw.integer(5, 11))
    ]
    if draw.integer(0, 3) == 0:
        words[draw.integer(0, len(words) - 1)] = str(draw.integer(2, 1990))
    words[0] = words[0][:1].upper() + words[0][1:]
    return [*words[:-1], words[-1] + draw.choice([".", ".", ".", "?", "!"])]


@cache
def all_languages() -> dict[str, Language]:
    """By their two letters."""
    text = files(__package__).joinpath("languages.json").read_text(encoding="utf-8")
    return {name: Language(**entry) for name, entry in json.loads(text).items()}
