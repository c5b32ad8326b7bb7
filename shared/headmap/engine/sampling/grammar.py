"""Answers in a given form: JSON of a schema, a regular expression, one of some texts, a grammar's language.

llguidance does the work, with one mask per token.

llguidance is a small library without dependencies that takes any vocabulary; xgrammar, its peer, brings Triton along.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import llguidance
import numpy as np
import torch
from llguidance.gbnf_to_lark import gbnf_to_lark

from headmap.engine.vocabulary import Vocabulary
from headmap.errors import InvalidParameter

# Small models would write blank space for ever where JSON allows any.
_COMPACT: Any = {"whitespace_flexible": False}
# A grammar costs at most about 0.2 s when it is made and 40 ms at each token, most of them a hundredth.
_LIMITS = llguidance.LLParserLimits(initial_lexer_fuel=1_000_000, step_lexer_fuel=200_000, max_grammar_size=200_000)
_LONGEST = 65_536
# Each token costs time in proportion to a text that is matched in one piece.
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


class Grammars:
    """Makes the grammars of one model. Safe to call from several threads."""

    def __init__(self, vocabulary: Vocabulary, eos: frozenset[int]) -> None:
        self._vocabulary = vocabulary
        self._tokenizer = llguidance.LLTokenizer(
            llguidance.TokenizerWrapper(_Tokens(vocabulary, eos)), eos_token=sorted(eos) or None
        )

    def json_schema(self, schema: Mapping[str, Any] | bool, field: str) -> Grammar:
        """Answers that are compact JSON and fit `schema`; True, as {}, takes any.

        Raises InvalidParameter naming `field` for a schema that is broken, too large, uses keywords that cannot be
        held, or asks for characters that the model has no token for.
        """
        if schema is False:
            raise InvalidParameter(f"{field}: no answer fits the schema false", param=field)
        try:
            served = _without_notes({} if schema is True else schema)
            text = json.dumps(served)
        except RecursionError as error:
            raise InvalidParameter(f"{field}: is nested too deeply", param=field) from error
        _check_length(text, _LONGEST, field)
        self._check(map(_inside, _literals(served)), field)
        try:
            described = llguidance.LLMatcher.grammar_from_json_schema(text, overrides=_COMPACT)
        except ValueError as error:  # nested too deeply
            raise InvalidParameter(f"{field}: {_first_line(str(error))}", param=field) from error
        return self._grammar(described, field)

    def regex(self, pattern: str, field: str) -> Grammar:
        """Answers that a regular expression matches as a whole. Raises InvalidParameter."""
        _check_length(pattern, _LONGEST_PIECE, field)
        self._check(_beyond_ascii(pattern), field)
        return self._grammar(llguidance.LLMatcher.grammar_from_regex(pattern), field)

    def choice(self, options: Sequence[str], field: str) -> Grammar:
        """Answers that are one of some texts. Raises InvalidParameter."""
        if not options or not all(options):
            raise InvalidParameter(f"{field}: must hold texts, none of them empty, got {options!r}"[:200], param=field)
        _check_length("".join(options), _LONGEST, field)
        self._check(options, field)
        # One terminal, as there is a bound on the rules that may begin in one place.
        texts = " | ".join(map(json.dumps, options))
        return self._grammar(llguidance.LLMatcher.grammar_from_lark(f"start: OPTION\nOPTION: {texts}"), field)

    def lark(self, grammar: str, field: str) -> Grammar:
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
                raise InvalidParameter(f"{field}: is not GBNF ({_first_line(str(error))})", param=field) from error
        return self._grammar(llguidance.LLMatcher.grammar_from_lark(grammar), field)

    def _check(self, texts: Iterable[str], field: str) -> None:
        for text in texts:
            _check_length(text, _LONGEST_PIECE, field)
            if not self._vocabulary.spells(text):
                raise InvalidParameter(f"{field}: this model cannot write {text!r}", param=field)

    def _grammar(self, described: str, field: str) -> Grammar:
        matcher = llguidance.LLMatcher(self._tokenizer, described, log_level=0, limits=_LIMITS)
        if matcher.is_error():
            raise InvalidParameter(f"{field}: {_first_line(matcher.get_error())}", param=field)
        grammar = Grammar(matcher, field)
        grammar.start().allowed(1)  # refuse at once where no token can even begin
        return grammar


class Grammar:
    """A form that answers must have; `start` begins one answer."""

    def __init__(self, matcher: llguidance.LLMatcher, field: str) -> None:
        self._matcher, self._field = matcher, field

    def start(self) -> Match:
        return Match(self._matcher.deep_copy(), self._field)


class Match:
    """One answer on its way through a grammar."""

    def __init__(self, matcher: llguidance.LLMatcher, field: str) -> None:
        self._matcher, self._field = matcher, field

    def allowed(self, size: int) -> torch.Tensor:
        """(size,) bool: the tokens that may come next, of a model with `size` tokens.

        Raises InvalidParameter if no token goes on, or if finding out takes too much work.
        """
        mask = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        if self._matcher.is_error() or not mask.any():
            reason = _first_line(self._matcher.get_error()) or "no token of this model goes on from here"
            raise InvalidParameter(f"{self._field}: {reason}", param=self._field)
        bits = np.unpackbits(mask, bitorder="little")[:size]
        return torch.from_numpy(np.pad(bits, (0, size - len(bits))).view(bool))

    def accept(self, token: int) -> None:
        """Take a token that was allowed."""
        if not self._matcher.consume_token(token):
            reason = _first_line(self._matcher.get_error())
            raise InvalidParameter(f"{self._field}: {reason}", param=self._field)

    @property
    def done(self) -> bool:
        """Whether the answer is whole and nothing may follow."""
        return self._matcher.is_stopped()


class _Tokens:
    """The vocabulary in llguidance's form."""

    def __init__(self, vocabulary: Vocabulary, eos: frozenset[int]) -> None:
        self.eos_token_id = min(eos, default=0)
        self.bos_token_id = None
        self.tokens = vocabulary.pieces
        self.special_token_ids = list(vocabulary.controls)
        self._vocabulary = vocabulary

    def __call__(self, text: bytes) -> list[int]:
        """Tokens for a text without a choice. The tokenizer is not used: it may write a space where a text begins."""
        return self._vocabulary.tokens(text)


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


def _first_line(message: str) -> str:
    return message.strip().split("\n")[0][:200]
