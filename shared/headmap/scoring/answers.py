"""Answers as tokens and as text."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from headmap.engine.detokenizer import TextStream
from headmap.families.loading import LoadedModel


def text_tokens(loaded: LoadedModel, text: str) -> list[int]:
    """The tokens of `text` up to the first control token, because control tokens are never text."""
    control = {*loaded.tokenizer.all_special_ids, loaded.family.image_token_id(loaded.model.config)}
    tokens = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
    return list(takewhile(lambda token: token not in control, tokens))


def token_texts(loaded: LoadedModel, tokens: Sequence[int]) -> list[str]:
    """Each token's part of the decoded text. A character of several tokens belongs to the token that completes it."""
    stream = TextStream(loaded.tokenizer)
    return [stream.push(token) for token in tokens]
