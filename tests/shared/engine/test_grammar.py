"""Answers in a given form, with the vocabularies that models have."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from headmap.engine.sampling.grammar import Grammar, Grammars
from headmap.engine.vocabulary import Vocabulary, read_vocabulary
from headmap.errors import InvalidParameter
from headmap.models import DEMO_FOLDER
from tests.shared.families.test_tokenizing import byte_fallback, byte_level, unigram

KINDS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "the bundled model's": lambda: AutoTokenizer.from_pretrained(DEMO_FOLDER),
    "byte level": byte_level,
    "byte fallback": byte_fallback,
}


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return KINDS[request.param]()


def eos_of(tokenizer: PreTrainedTokenizerFast) -> int:
    return int(tokenizer.convert_tokens_to_ids("<|im_end|>"))


def grammars(tokenizer: PreTrainedTokenizerFast) -> tuple[Grammars, Vocabulary]:
    vocabulary = read_vocabulary(tokenizer)
    return Grammars(vocabulary, frozenset({eos_of(tokenizer)})), vocabulary


def write(grammar: Grammar, tokenizer: PreTrainedTokenizerFast, vocabulary: Vocabulary, seed: int) -> str:
    """What a model without any sense would write: a random token of those allowed."""
    chance, match, written = random.Random(seed), grammar.start(), b""
    for _ in range(400):
        token = chance.choice(match.allowed(len(vocabulary.pieces) + 5).nonzero()[:, 0].tolist())
        if token == eos_of(tokenizer):
            break
        match.accept(token)
        written += vocabulary.written(token)
        if match.done:
            break
    return written.decode()


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"key": {"enum": ["A1", "B2"]}, "sure": {"type": "boolean"}, "n": {"type": "integer", "maximum": 99}},
    "required": ["key", "sure", "n"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("seed", range(5))
def test_random_tokens_make_json_of_the_schema(tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
    maker, vocabulary = grammars(tokenizer)
    answer = json.loads(write(maker.json_schema(SCHEMA, "schema"), tokenizer, vocabulary, seed))
    assert list(answer) == ["key", "sure", "n"]
    assert answer["key"] in ("A1", "B2")
    assert isinstance(answer["sure"], bool)
    assert answer["n"] <= 99


def test_random_tokens_match_the_expression(tokenizer: PreTrainedTokenizerFast) -> None:
    maker, vocabulary = grammars(tokenizer)
    for seed in range(5):
        assert re.fullmatch(
            "[A-Z]{3}-[0-9]{2,4}", write(maker.regex("[A-Z]{3}-[0-9]{2,4}", "g"), tokenizer, vocabulary, seed)
        )


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"type": "nothing"}, "nothing"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"$ref": "http://example.com/x"}, "example.com"),
        ({"$ref": "#/$defs/none"}, "/\\$defs/none"),
        ({"enum": ["x" * 70_000]}, "at most 65536"),
    ],
)
def test_a_schema_that_cannot_be_served_is_named(schema: dict[str, Any], named: str) -> None:
    maker, _ = grammars(byte_level())
    with pytest.raises(InvalidParameter, match=named) as caught:
        maker.json_schema(schema, "response_format")
    assert caught.value.param == "response_format"


@pytest.mark.parametrize(
    "schema",
    [
        {"enum": ["yes", "nö"]},
        {"properties": {"größe": {"type": "integer"}}},
        {"$defs": {"one": {"const": {"é": 1}}}, "$ref": "#/$defs/one"},
        {"type": "string", "pattern": "^é+$"},
    ],
)
def test_characters_the_model_cannot_write_are_refused(schema: dict[str, Any]) -> None:
    maker, _ = grammars(AutoTokenizer.from_pretrained(DEMO_FOLDER))
    with pytest.raises(InvalidParameter, match="this model cannot write"):
        maker.json_schema(schema, "response_format")
    maker, _ = grammars(byte_level())
    assert maker.json_schema(schema, "response_format")


@pytest.mark.parametrize("pattern", ["(", "[z-a]", "x" * 70_000])
def test_an_expression_that_cannot_be_served_is_refused(pattern: str) -> None:
    maker, _ = grammars(byte_level())
    with pytest.raises(InvalidParameter, match="grammar"):
        maker.regex(pattern, "grammar")


# ---- vocabularies


@pytest.mark.parametrize("make", [*KINDS.values(), unigram])
def test_pieces_put_together_are_the_text(make: Callable[[], PreTrainedTokenizerFast]) -> None:
    tokenizer = make()
    vocabulary = read_vocabulary(tokenizer)
    for text in ("What is it? 42", "see the cat"):
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
        written = b"".join(map(vocabulary.written, tokens)).decode()
        assert written.strip() == text  # some tokenizers write a space where a text begins


def test_bytes_of_a_character_are_told_apart() -> None:
    for make in (byte_level, byte_fallback):
        vocabulary = read_vocabulary(make())
        assert vocabulary.spells("größe €")
        token = vocabulary.pieces.index("é".encode()[:1])
        assert vocabulary.text(token) == "\ufffd"


def test_control_tokens_have_a_name_and_write_nothing() -> None:
    tokenizer = byte_level()
    vocabulary = read_vocabulary(tokenizer)
    end = eos_of(tokenizer)
    assert (vocabulary.text(end), vocabulary.written(end)) == ("<|im_end|>", b"")
    assert vocabulary.written(100_000) == b""
