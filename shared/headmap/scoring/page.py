"""A page: a picture, its words, and questions that it answers.

This module does not import numpy, which would take most of the start time of a process that checks an upload.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

from PIL import Image

_RIGHT_TO_LEFT = ("R", "AL")
"""Unicode's bidirectional classes of strong right-to-left characters."""


@dataclass(frozen=True)
class Word:
    """A whitespace-separated piece of the page's text."""

    text: str
    box: tuple[int, int, int, int]
    """`x0, y0, x1, y1` in pixels of the page; `x1` and `y1` are exclusive."""

    def follows(self, other: Word) -> bool:
        """Whether this word follows `other` on its line: to its left if either is written right to left."""
        if self.box[1] >= other.box[3]:
            return False
        if right_to_left(self.text + other.text):
            return self.box[2] <= other.box[0]
        return self.box[0] >= other.box[2]


def right_to_left(text: str) -> bool:
    """Whether any character of the word belongs to a right-to-left script."""
    return any(unicodedata.bidirectional(char) in _RIGHT_TO_LEFT for char in text)


@dataclass(frozen=True)
class Question:
    """A question that the page answers."""

    question: str
    answer: str


@dataclass(frozen=True)
class Page:
    """A picture with its words, in reading order, and its questions."""

    image: Image.Image
    words: tuple[Word, ...]
    questions: tuple[Question, ...]

    @property
    def text(self) -> str:
        """The true transcription: words of a line joined by a space, lines by a newline."""
        lines: list[list[Word]] = []
        for word in self.words:
            if lines and word.follows(lines[-1][-1]):
                lines[-1].append(word)
            else:
                lines.append([word])
        return "\n".join(" ".join(word.text for word in line) for line in lines)
