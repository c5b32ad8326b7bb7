"""VQA accuracy: an answer is right if three annotators gave it (arXiv 1505.00468, section 4; TextVQA).

Each annotator is left out in turn, and the answer gets min(1, others that gave it / 3); the mark is the mean. Answers
are normalised as VQA's evaluation does it: lower case, number words as digits, no articles, no punctuation.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from headmap.evaluation.metrics.base import Metric

AGREEING = 3

_ARTICLES = {"a", "an", "the"}
_DIGITS = {
    "none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7",
    "eight": "8", "nine": "9", "ten": "10",
}  # fmt: skip
_SHORT_FORMS = (
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd "
    "he'd've he's how'd how'll how's I'd've I'm I've isn't it'd it'd've it'll ma'am mightn't mightn't've might've "
    "mustn't must've needn't not've o'clock oughtn't shan't she'd've should've shouldn't shouldn't've somebody'd "
    "somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've "
    "something'll that's there'd there'd've there're there's they'd they'd've they'll they're they've 'twas "
    "wasn't we'd've we've weren't what'll what're what's what've when's where'd where's where've who'd who'd've "
    "who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'd've you'd you'd've "
    "you'll you're you've"
)
_CONTRACTIONS = {
    form[:place] + form[place + 1 :]: form
    for form in _SHORT_FORMS.split()
    for place, character in enumerate(form)
    if character == "'"
}
"""A short form by each way to write it without one of its apostrophes."""

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_PERIOD = re.compile(r"(?<!\d)\.(?!\d)")
_THOUSANDS = re.compile(r"(\d),(\d)")


class Vqa(Metric):
    """Takes all the annotators' answers, at least four: with fewer, nothing could reach 1."""

    name = "vqa"
    fewest = AGREEING + 1

    def score(self, answer: str, expected: Sequence[str]) -> float:
        said = normalised(answer)
        given = [normalised(right) == said for right in expected]
        return sum(min(1.0, (sum(given) - own) / AGREEING) for own in given) / len(given)


def normalised(text: str) -> str:
    """An answer as VQA's evaluation compares it."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's")
    text = " ".join(text.split())
    thousands = _THOUSANDS.search(text)
    for mark in _PUNCTUATION:
        spaced = f"{mark} " in text or f" {mark}" in text
        text = text.replace(mark, "" if spaced or thousands else " ")
    words = [_DIGITS.get(word, word) for word in _PERIOD.sub("", text).split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)
