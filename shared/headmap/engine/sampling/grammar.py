"""Answers in a given form: JSON of a schema, or a regular expression. llguidance does the work, one mask a token.

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
# A grammar costs at most about 20 ms when it is made and 15 ms at each token.
_LIMITS = llguidance.LLParserLimits(initial_lexer_fuel=1_000_000, step_lexer_fuel=200_000, max_grammar_size=200_000)
_LONGEST = 65_536
_GBNF_RULE = re.compile(r"^\s*[\w-]+\s*::=", re.MULTILINE)


class Grammars:
    """Makes the grammars of one model. Safe to call from several threads."""

    def __init__(self, vocabulary: Vocabulary, eos: frozenset[int]) -> None:
        self._vocabulary = vocabulary
        self._tokenizer = llguidance.LLTokenizer(
            llguidance.TokenizerWrapper(_Tokens(vocabulary, eos)), eos_token=sorted(eos) or None
        )

    def json_schema(self, schema: Mapping[str, Any], field: str) -> Grammar:
        """Answers that are compact JSON and fit `schema`.

        Raises InvalidParameter naming `field` for a schema that is broken, too large, uses unknown keywords, or asks
        for characters that the model has no token for.
        """
        text = json.dumps(schema)
        if len(text) > _LONGEST:
            raise InvalidParameter(f"{field}: {len(text)} characters, at most {_LONGEST} are taken", param=field)
        self._check(map(_inside, _literals(schema)), field)
        try:
            described = llguidance.LLMatcher.grammar_from_json_schema(text, overrides=_COMPACT)
        except ValueError as error:  # nested too deeply
            raise InvalidParameter(f"{field}: {_first_line(str(error))}", param=field) from error
        return self._grammar(described, field)

    def regex(self, pattern: str, field: str) -> Grammar:
        """Answers that a regular expression matches as a whole. Raises InvalidParameter."""
        if len(pattern) > _LONGEST:
            raise InvalidParameter(f"{field}: {len(pattern)} characters, at most {_LONGEST} are taken", param=field)
        self._check(_beyond_ascii(pattern), field)
        return self._grammar(llguidance.LLMatcher.grammar_from_regex(pattern), field)

    def choice(self, options: Sequence[str], field: str) -> Grammar:
        """Answers that are one of some texts. Raises InvalidParameter."""
        if not options or not all(options):
            raise InvalidParameter(f"{field}: must hold texts that are not empty, got {options!r}"[:200], param=field)
        if sum(map(len, options)) > _LONGEST:
            raise InvalidParameter(f"{field}: more than {_LONGEST} characters", param=field)
        self._check(options, field)
        texts = " | ".join(map(json.dumps, options))  # of one terminal: rules have a bound, terminals do not
        return self._grammar(llguidance.LLMatcher.grammar_from_lark(f"start: CHOICE\nCHOICE: {texts}"), field)

    def lark(self, grammar: str, field: str) -> Grammar:
        """Answers of a grammar in Lark, or in GBNF where it has rules `name ::= ...`. Raises InvalidParameter."""
        if len(grammar) > _LONGEST:
            raise InvalidParameter(f"{field}: {len(grammar)} characters, at most {_LONGEST} are taken", param=field)
        self._check(_beyond_ascii(grammar), field)
        if "%json" in grammar:
            raise InvalidParameter(f"{field}: %json is not served; ask for JSON by its schema", param=field)
        if _GBNF_RULE.search(grammar):
            try:
                grammar = gbnf_to_lark(grammar)
            except Exception as error:  # it raises whatever its parser stumbles over
                raise InvalidParameter(f"{field}: not GBNF ({_first_line(str(error))})", param=field) from error
        return self._grammar(llguidance.LLMatcher.grammar_from_lark(grammar), field)

    def _check(self, texts: Iterable[str], field: str) -> None:
        for text in texts:
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

        Raises InvalidParameter where no token goes on, or where finding out is too much work.
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
        """Used where a grammar leaves no choice. Not the tokenizer itself: some write a space where a text begins."""
        return self._vocabulary.tokens(text)


def _literals(schema: object) -> Iterator[str]:
    """The texts that a schema may have the model write: names of properties, constants, characters of patterns."""
    if isinstance(schema, Mapping):
        for key, value in schema.items():
            if key in ("enum", "const"):
                yield from _strings(value)
            elif key == "pattern" and isinstance(value, str):
                yield from _beyond_ascii(value)
            elif key in ("properties", "$defs", "definitions", "dependentSchemas") and isinstance(value, Mapping):
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
    """As it stands between quotes in JSON."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _first_line(message: str) -> str:
    return message.strip().split("\n")[0][:200]
