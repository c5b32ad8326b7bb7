"""Answers in a given form, with the vocabularies that models have."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from datetime import date
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
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
        ({"enum": ["x" * 9_000]}, "at most 8192"),
        ({"type": "string", "format": "iri"}, "iri"),
        ({"not": {}}, "not"),
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


@pytest.mark.parametrize("value", ["\ud83d", "a\udc00"])
def test_half_a_character_is_refused_wherever_it_stands(value: str) -> None:
    maker, _ = grammars(byte_level())
    schemas: list[dict[str, Any]] = [
        {"enum": [value]},
        {"properties": {value: {}}},
        {"type": "string", "pattern": value},
    ]
    makes: list[Callable[[], Grammar]] = [
        *(partial(maker.json_schema, schema, "form") for schema in schemas),
        lambda: maker.choice(["a", value], "form"),
        lambda: maker.regex(value, "form"),
        lambda: maker.lark(f'start: "{value}"', "form"),
    ]
    for make in makes:
        with pytest.raises(InvalidParameter, match="cannot write") as caught:
            make()
        assert caught.value.param == "form"
    assert maker.json_schema({"type": "integer", "description": value}, "form")


# ---- schemas as people's libraries make them


class Colour(StrEnum):
    red = "red"
    blue = "blue"


class Address(BaseModel):
    model_config = ConfigDict(extra="forbid", title="Where")
    street: Literal["Hill Road", "Main Street"]
    number: int = Field(ge=1, le=99, description="of the house", examples=[12])


class Cat(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kind: Literal["cat"]
    lives: Annotated[int, Field(ge=0, le=9)]


class Dog(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kind: Literal["dog"]
    good: bool


class Person(BaseModel):
    """Somebody."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"x-order": 3, "examples": [{"title": "none"}]})
    title: Literal["Dr", "Ms"] | None = Field(default=None, deprecated=True)
    colour: Colour
    homes: Annotated[list[Address], Field(min_length=1, max_length=2)]
    pet: Cat | Dog = Field(discriminator="kind")
    other: Cat | Dog
    size: tuple[Literal[1, 2], Literal["S"]]
    born: date | None
    id: UUID
    path: Annotated[Path, Field(json_schema_extra={"pattern": "^/[a-c]{1,3}$"})]
    secret: Annotated[str, Field(pattern="^[x-z]{2}$", json_schema_extra={"format": "password", "writeOnly": True})]
    share: Annotated[float, Field(gt=0, lt=1, multiple_of=0.25)]
    unique: Annotated[list[Colour], Field(max_length=2, json_schema_extra={"uniqueItems": False})]


class Branch(BaseModel):
    model_config = ConfigDict(extra="forbid")
    leaf: Literal["leaf"] | None
    under: Annotated[list[Branch], Field(max_length=1)] = []


@pytest.mark.parametrize("made", [Colour, Address, Cat, Cat | Dog, Person, Branch, list[Colour], Colour | None, bool])
def test_a_schema_of_pydantic_brings_compact_json_that_pydantic_takes(made: Any) -> None:
    tokenizer, adapter = byte_level(), TypeAdapter(made)
    maker, vocabulary = grammars(tokenizer)
    grammar = maker.json_schema(adapter.json_schema(), "schema")
    for seed in range(2):
        answer = write(grammar, tokenizer, vocabulary, seed)
        adapter.validate_json(answer)
        assert not re.search(r"\s", re.sub(r'"[^"]*"', "", answer))


@pytest.mark.parametrize(
    ("made", "named"), [(set[str], "uniqueItems"), (dict[Literal["a", "b"], int], "propertyNames")]
)
def test_a_keyword_of_pydantic_that_cannot_be_held_is_named(made: Any, named: str) -> None:
    maker, _ = grammars(byte_level())
    with pytest.raises(InvalidParameter, match=named):
        maker.json_schema(TypeAdapter(made).json_schema(), "schema")


@pytest.mark.parametrize("schema", [True, {}, {"type": "object"}, {"properties": {"a": True}}])
def test_a_schema_that_takes_anything_brings_json(schema: Any) -> None:
    tokenizer = AutoTokenizer.from_pretrained(DEMO_FOLDER)
    maker, vocabulary = grammars(tokenizer)
    assert maker.json_schema(schema, "schema").start().allowed(len(vocabulary.pieces)).any()
    with pytest.raises(InvalidParameter, match="no answer fits"):
        maker.json_schema(False, "schema")


def test_no_blank_stands_outside_of_texts() -> None:
    tokenizer = byte_level()
    maker, vocabulary = grammars(tokenizer)
    match = maker.json_schema(SCHEMA, "schema").start()
    for token in vocabulary.tokens(b'{"key":"A1","sure":true,"n":7'):
        blanks = [vocabulary.pieces.index(blank) for blank in (b"\n", b"\t", b" ")]
        assert not match.allowed(len(vocabulary.pieces))[blanks].any()
        match.accept(token)


# ---- choices and grammars

TEXTS = ["yes", "yes, sure", 'a "quoted" one', "back\\slash", "new\nline", "größe", "😀", "a/b*c", "\u2028", "\t\x7f"]


def test_a_choice_is_one_of_the_texts_to_the_letter() -> None:
    tokenizer = byte_level()
    maker, vocabulary = grammars(tokenizer)
    for text in TEXTS:
        assert write(maker.choice([text], "choice"), tokenizer, vocabulary, 0) == text
    written = {write(maker.choice(TEXTS, "choice"), tokenizer, vocabulary, seed) for seed in range(30)}
    assert written <= set(TEXTS)
    assert len(written) > 3
    many = maker.choice([f"option {number}" for number in range(4000)], "choice")
    assert re.fullmatch("option [0-9]+", write(many, tokenizer, vocabulary, 0))


@pytest.mark.parametrize("options", [[], [""], ["a", ""], ["x" * 9_000], ["x" * 7_000] * 10])
def test_a_choice_that_cannot_be_served_is_refused(options: list[str]) -> None:
    maker, _ = grammars(byte_level())
    with pytest.raises(InvalidParameter, match="guided_choice") as caught:
        maker.choice(options, "guided_choice")
    assert caught.value.param == "guided_choice"


@pytest.mark.parametrize(
    ("grammar", "form"),
    [
        ('start: "a" | "b" start', "b*a"),
        ("start: INT\n%import common.INT", "[0-9]+"),
        ('?start: sum\nsum: NUMBER ("+" NUMBER)*\nNUMBER: /[1-9]/', "[1-9]([+][1-9])*"),
        ('start: "::=" /[xy]/', "::=[xy]"),
        ('root ::= "a" [0-9]+ # digits', "a[0-9]+"),
        ('root ::= "SELECT " column\ncolumn ::= "x" | ("y" blank)\nblank ::= [ \\t]{1,2}', "SELECT (x|y[ \\t]{1,2})"),
        ('  root::="a"', "a"),
    ],
)
def test_random_tokens_fit_the_grammar(grammar: str, form: str) -> None:
    tokenizer = byte_level()
    maker, vocabulary = grammars(tokenizer)
    made = maker.lark(grammar, "guided_grammar")
    for seed in range(5):
        assert re.fullmatch(form, write(made, tokenizer, vocabulary, seed))


@pytest.mark.parametrize(
    ("grammar", "named"),
    [
        ("", "Empty grammar"),
        ("%%%", "lexer error"),
        ("start: missing", "missing"),
        ('start: %json {"type": "object"}', "%json"),
        ('start: "a', "guided_grammar"),
        ("start: /(/", "invalid regex"),
        ("root ::= missing", "missing"),
        ('root ::= "a', "Unexpected end"),
        ('main ::= "a"', "not GBNF|start"),
        ("root ::= " + "(" * 60_000, "not GBNF"),
        ("root ::= a0\n" + "".join(f'a{n} ::= "a"\n' for n in range(600)), "601 rules; at most 500"),
        ("start: " + '"a" ' * 20_000, "at most 65536"),
    ],
    ids=lambda text: text[:12],
)
def test_a_grammar_that_cannot_be_served_is_refused(grammar: str, named: str) -> None:
    maker, _ = grammars(byte_level())
    with pytest.raises(InvalidParameter, match=named) as caught:
        maker.lark(grammar, "guided_grammar")
    assert caught.value.param == "guided_grammar"


def test_a_grammar_whose_characters_the_model_cannot_write_is_refused() -> None:
    maker, _ = grammars(AutoTokenizer.from_pretrained(DEMO_FOLDER))
    for make in (lambda: maker.lark('start: "ö"', "g"), lambda: maker.choice(["A", "ö"], "g")):
        with pytest.raises(InvalidParameter, match="cannot write 'ö'"):
            make()


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
