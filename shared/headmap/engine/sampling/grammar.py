"""Answers in a given form: JSON of a schema, a regular expression, one of some texts, a grammar's language. One mask a
token, each with a bound, and all masks of an answer with another.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import llguidance
import numpy as np
import torch

from headmap.engine.sampling.grammar_forms import GrammarForms, first_line
from headmap.engine.sampling.matching import compiled, tokenizer_of
from headmap.engine.vocabulary import Vocabulary
from headmap.errors import InvalidParameter

# Processor time. A mask of a usual grammar takes 0.2 ms, the first ones more.
FIRST_SECONDS = 0.25
SECONDS_A_TOKEN = 0.005


class Grammars:
    """Makes the grammars of one model. Safe to call from several threads.

    Each method takes and raises what the one of `GrammarForms` does. Each also raises InvalidParameter for a grammar
    that is broken, costs too much, or has keywords that are not supported.
    """

    def __init__(self, vocabulary: Vocabulary, eos: frozenset[int]) -> None:
        self._forms = GrammarForms(vocabulary)
        self._tokenizer = tokenizer_of(vocabulary, eos)

    def json_schema(self, schema: Mapping[str, Any] | bool, field: str) -> Grammar:
        return self.described(self._forms.json_schema(schema, field), field)

    def regex(self, pattern: str, field: str) -> Grammar:
        return self.described(self._forms.regex(pattern, field), field)

    def choice(self, options: Sequence[str], field: str) -> Grammar:
        return self.described(self._forms.choice(options, field), field)

    def lark(self, grammar: str, field: str) -> Grammar:
        return self.described(self._forms.grammar(grammar, field), field)

    def described(self, text: str, field: str) -> Grammar:
        """Compile what `GrammarForms` described. Nothing but the limits of a mask bounds the time: a server tries it in
        a process that it can end.
        """
        return Grammar(compiled(self._tokenizer, text, field), field)


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
        self._left = FIRST_SECONDS

    def allowed(self, size: int) -> torch.Tensor:
        """(size,) bool: the tokens that may come next, of a model with `size` tokens.

        Raises InvalidParameter if no token goes on, or where finding out is too much work: for this token, or for
        all so far.
        """
        if self._left < 0:
            raise InvalidParameter(
                f"{self._field}: its grammar takes more than {FIRST_SECONDS:g} seconds and {SECONDS_A_TOKEN:g} a token",
                param=self._field,
            )
        began = time.thread_time()
        mask = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        self._left -= time.thread_time() - began
        if self._matcher.is_error() or not mask.any():
            reason = first_line(self._matcher.get_error()) or "no token of this model goes on from here"
            raise InvalidParameter(f"{self._field}: {reason}", param=self._field)
        bits = np.unpackbits(mask, bitorder="little")[:size]
        return torch.from_numpy(np.pad(bits, (0, size - len(bits))).view(bool))

    def accept(self, token: int) -> None:
        """Take a token that was allowed."""
        began = time.thread_time()
        taken = self._matcher.consume_token(token)
        self._left = min(FIRST_SECONDS, self._left + SECONDS_A_TOKEN - (time.thread_time() - began))
        if not taken:
            reason = first_line(self._matcher.get_error())
            raise InvalidParameter(f"{self._field}: {reason}", param=self._field)

    @property
    def done(self) -> bool:
        """Whether the answer is whole and nothing may follow."""
        return self._matcher.is_stopped()
