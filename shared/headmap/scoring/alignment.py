"""Find the page's word that each generated token reads: the paper's rule and an alignment rule.

Both rules take the tokens' texts and the page's words. They return the index of the word that each token read, or -1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from itertools import groupby
from typing import Literal

Rule = Literal["aligned", "paper"]
MIN_BLOCK = 3
"""The minimum length of a matching run, unless it is a whole word. Shorter runs match by chance."""


def match_paper(tokens: Sequence[str], words: Sequence[str]) -> list[int]:
    """SparseMM section 3.1: a token belongs to a word when its text occurs in exactly one word of the page.

    The paper leaves two details open. Here the token's text is its decoded form without surrounding blanks, and a token
    without text belongs to no word.
    """
    return [_only_word(token.strip(), words) for token in tokens]


def _only_word(text: str, words: Sequence[str]) -> int:
    found = [index for index, word in enumerate(words) if text in word] if text else []
    return found[0] if len(found) == 1 else -1


def match_aligned(tokens: Sequence[str], words: Sequence[str]) -> list[int]:
    """Align the generated text with the page by characters. A token reads the word that has most of its characters.

    Words are first aligned in reading order. The remaining text is then searched for each unaligned word as a whole, so
    columns that were read in another order still count. A token needs half of its visible characters on one word.
    """
    text = "".join(tokens)
    word_of_char = [-1] * len(text)
    _align_in_order(text, words, word_of_char)
    _place_moved_words(text, words, word_of_char)
    result = []
    end = 0
    for token in tokens:
        start, end = end, end + len(token)
        result.append(_majority(text[start:end], word_of_char[start:end]))
    return result


def _align_in_order(text: str, words: Sequence[str], word_of_char: list[int]) -> None:
    """Align both texts without blanks and line ends, because scripts and models write these differently."""
    page = [char for word in words for char in word if not char.isspace()]
    owners = [index for index, word in enumerate(words) for char in word if not char.isspace()]
    places = [place for place, char in enumerate(text) if not char.isspace()]
    lengths = Counter(owners)
    matcher = SequenceMatcher(None, page, [text[place] for place in places], autojunk=False)
    for first, start, size in matcher.get_matching_blocks():
        for word, run in groupby(range(size), owners[first : first + size].__getitem__):
            offsets = list(run)
            if len(offsets) >= MIN_BLOCK or len(offsets) == lengths[word]:
                for offset in offsets:
                    word_of_char[places[start + offset]] = word


def _place_moved_words(text: str, words: Sequence[str], word_of_char: list[int]) -> None:
    placed = set(word_of_char)
    for index, word in enumerate(words):
        if index in placed or words.count(word) > 1 or len(word) < MIN_BLOCK:
            continue
        start = text.find(word)
        while start >= 0:
            span = slice(start, start + len(word))
            if all(owner < 0 for owner in word_of_char[span]):
                word_of_char[span] = [index] * len(word)
                break
            start = text.find(word, start + 1)


def _majority(token: str, owners: Sequence[int]) -> int:
    visible = [owner for char, owner in zip(token, owners, strict=True) if not char.isspace()]
    on_words = [owner for owner in visible if owner >= 0]
    if not on_words or 2 * len(on_words) < len(visible):
        return -1
    return max(on_words, key=lambda owner: (on_words.count(owner), -owner))


RULES: dict[str, Callable[[Sequence[str], Sequence[str]], list[int]]] = {"aligned": match_aligned, "paper": match_paper}
