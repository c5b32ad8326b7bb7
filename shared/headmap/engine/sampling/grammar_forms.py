"""From the form that a request asks for to a grammar in llguidance's words: JSON of a schema, a regular expression, one
of some texts, a grammar's language. All checks that need no compiling are here. Knows no torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import llguidance
from llguidance.gbnf_to_lark import gbnf_to_lark

from headmap.engine.vocabulary import Vocabulary
from headmap.errors import InvalidParameter

Kind = Literal["json_schema", "regex", "choice", "grammar"]

# Small models would write blank space for ever where JSON allows any.
_COMPACT: Any = {"whitespace_flexible": False}
_LONGEST = 65_536
_MOST_VALUES = 16_384
# Of a text that is matched in one piece: each of its bytes is a state of the lexer.
_LONGEST_PIECE = 8_192
# The converter takes time in proportion to their square: 0.2 s.
_MOST_GBNF_RULES = 500
_GBNF_RULE = re.compile(r"^[ \t]*[\w-]+[ \t]*::=", re.MULTILINE)
# Of JSON Schema's Validation, 7.3; any other format is a note to the reader. llguidance refuses those that it lacks.
_FORMATS = frozenset(
    [
        "date-time",
        "date",
        "time",
        "duration",
        "email",
        "idn-email",
        "hostname",
        "idn-hostname",
        "ipv4",
        "ipv6",
        "uri",
        "uri-reference",
        "iri",
        "iri-reference",
        "uuid",
        "uri-template",
        "json-pointer",
        "relative-json-pointer",
        "regex",
    ]
)
_NOTES = frozenset(
    ["title", "description", "default", "example", "examples", "deprecated", "readOnly", "writeOnly", "$comment"]
)
# Members of a schema that hold schemas by names of the author's, and members that hold plain values.
_NAMED = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
_PLAIN = frozenset({"enum", "const"})


class GrammarForms:
    """Checks the forms that requests ask for and describes them. `vocabulary`: of the model that writes the answers."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary

    def describe(self, kind: Kind, value: Any, field: str) -> str:
        """`value` is what the method that is called `kind` takes. Raises InvalidParameter as it does."""
        if kind == "json_schema":
            return self.json_schema(value, field)
        if kind == "choice":
            return self.choice(value, field)
        return self.regex(value, field) if kind == "regex" else self.grammar(value, field)

    def json_schema(self, schema: Mapping[str, Any] | bool, field: str) -> str:
        """Answers that are compact JSON and fit `schema`; True, as {}, takes any.

        Raises InvalidParameter naming `field` for a schema that is nested too deeply, too large, or asks for characters
        that the model has no token for.
        """
        if schema is False:
            raise InvalidParameter(f"{field}: no answer fits the schema false", param=field)
        check_size(schema, field)
        try:
            served = _without_notes({} if schema is True else schema)
            text = json.dumps(served)
        except RecursionError as error:
            raise InvalidParameter(f"{field}: is nested too deeply", param=field) from error
        _check_length(text, _LONGEST, field)
        self._check(map(_inside, _literals(served)), field)
        try:
            return llguidance.LLMatcher.grammar_from_json_schema(text, overrides=_COMPACT)
        except ValueError as error:  # nested too deeply
            raise InvalidParameter(f"{field}: {first_line(str(error))}", param=field) from error

    def regex(self, pattern: str, field: str) -> str:
        """Answers that a regular expression matches as a whole. Raises InvalidParameter."""
        _check_length(pattern, _LONGEST_PIECE, field)
        self._check(_beyond_ascii(pattern), field)
        return llguidance.LLMatcher.grammar_from_regex(pattern)

    def choice(self, options: Sequence[str], field: str) -> str:
        """Answers that are one of some texts. Raises InvalidParameter."""
        check_size(options, field)
        if not options or not all(options):
            raise InvalidParameter(f"{field}: must hold texts, none of them empty, got {options!r}"[:200], param=field)
        self._check(options, field)
        # One terminal, as there is a bound on the rules that may begin in one place.
        texts = " | ".join(map(json.dumps, options))
        return llguidance.LLMatcher.grammar_from_lark(f"start: OPTION\nOPTION: {texts}")

    def grammar(self, grammar: str, field: str) -> str:
        """Answers of a grammar in Lark's form as llguidance takes it, which begins at `start`, or in GBNF (llama.cpp),
        which begins at `root` and has rules `name ::= ...`. Raises InvalidParameter.
        """
        _check_length(grammar, _LONGEST, field)
        self._check(_beyond_ascii(grammar), field)
        if "%json" in grammar:
            raise InvalidParameter(f"{field}: %json is not served; ask for JSON by its schema", param=field)
        if rules := len(_GBNF_RULE.findall(grammar)):
            if rules > _MOST_GBNF_RULES:
                raise InvalidParameter(
                    f"{field}: has {rules} rules; at most {_MOST_GBNF_RULES} are accepted", param=field
                )
            try:
                grammar = gbnf_to_lark(grammar)
            except Exception as error:  # it raises whatever its parser stumbles over
                raise InvalidParameter(f"{field}: is not GBNF ({first_line(str(error))})", param=field) from error
        return llguidance.LLMatcher.grammar_from_lark(grammar)

    def _check(self, texts: Iterable[str], field: str) -> None:
        for text in texts:
            _check_length(text, _LONGEST_PIECE, field)
            if not self._vocabulary.spells(text):
                raise InvalidParameter(f"{field}: this model cannot write {text!r}"[:200], param=field)


def check_size(value: object, field: str) -> None:
    """Refuse a form by its size alone, and look at no more of it than may be taken. Raises InvalidParameter."""
    left, values, characters = [value], 0, 0
    while left:
        one = left.pop()
        values += 1
        if isinstance(one, str):
            characters += len(one)
        elif isinstance(one, Mapping):
            values += len(one)
            characters += 0 if values > _MOST_VALUES else sum(map(len, one))
            left += () if values > _MOST_VALUES else one.values()
        elif isinstance(one, list | tuple):
            left += () if values + len(one) > _MOST_VALUES else one
            values += len(one)
        if characters > _LONGEST:
            raise InvalidParameter(f"{field}: {characters} characters, at most {_LONGEST} are taken", param=field)
        if values > _MOST_VALUES:
            raise InvalidParameter(f"{field}: {values} values, at most {_MOST_VALUES} are taken", param=field)


def first_line(message: str) -> str:
    return message.strip().split("\n")[0][:200]


def _check_length(text: str, most: int, field: str) -> None:
    if len(text) > most:
        raise InvalidParameter(f"{field}: has {len(text)} characters; at most {most} are accepted", param=field)


def _without_notes(schema: Any) -> Any:
    """A schema without the members that do not restrict an answer.

    If a discriminator separates the cases of a oneOf, an answer fits at most one of them, so an anyOf means the same.
    """
    if isinstance(schema, list):
        return [_without_notes(one) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    kept: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _NAMED and isinstance(value, Mapping):
            kept[key] = {name: _without_notes(one) for name, one in value.items()}
        elif key in _PLAIN:
            kept[key] = value
        elif not _is_note(key, value):
            kept[key] = _without_notes(value)
    if "discriminator" in kept and "anyOf" not in kept and "oneOf" in kept:
        kept["anyOf"] = kept.pop("oneOf")
    return kept


def _is_note(key: str, value: object) -> bool:
    if key == "format":
        return isinstance(value, str) and value not in _FORMATS
    return key in _NOTES or (key == "uniqueItems" and value is False)


def _literals(schema: object) -> Iterator[str]:
    """The texts that a schema may have the model write: names of properties, constants, characters of patterns."""
    if isinstance(schema, Mapping):
        for key, value in schema.items():
            if key in _PLAIN:
                yield from _strings(value)
            elif key == "pattern" and isinstance(value, str):
                yield from _beyond_ascii(value)
            elif key in _NAMED and isinstance(value, Mapping):
                if key == "properties":
                    yield from map(str, value)
                for one in value.values():
                    yield from _literals(one)
            else:
                yield from _literals(value)
    elif isinstance(schema, list):
        for one in schema:
            yield from _literals(one)


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from map(str, value)
        for one in value.values():
            yield from _strings(one)
    elif isinstance(value, list):
        for one in value:
            yield from _strings(one)


def _beyond_ascii(pattern: str) -> list[str]:
    """Characters of an expression that can only stand for themselves."""
    return [character for character in pattern if not character.isascii()]


def _inside(text: str) -> str:
    """The text as it is written between quotes in JSON."""
    return json.dumps(text, ensure_ascii=False)[1:-1]
