"""Compiling of grammars by llguidance, under limits. Knows no torch.

llguidance is a small library without dependencies that takes any vocabulary; xgrammar, its peer, brings Triton along.
"""

from __future__ import annotations

import llguidance

from headmap.engine.sampling.grammar_forms import first_line
from headmap.engine.vocabulary import Vocabulary
from headmap.errors import InvalidParameter

# Of one mask: about 7 ms of lexing and 10 ms of parsing. Most need a hundredth, with a vocabulary of 150,000 tokens.
_LIMITS = llguidance.LLParserLimits(
    initial_lexer_fuel=200_000,
    step_lexer_fuel=100_000,
    step_max_items=20_000,
    max_lexer_states=50_000,
    max_grammar_size=200_000,
    verbose_errors=False,
)
_LEAST_FORCED = 256


def tokenizer_of(vocabulary: Vocabulary, eos: frozenset[int]) -> llguidance.LLTokenizer:
    """What grammars of one model are compiled with; takes about a second for 150,000 tokens."""
    return llguidance.LLTokenizer(llguidance.TokenizerWrapper(_Tokens(vocabulary, eos)), eos_token=sorted(eos) or None)


def compiled(tokenizer: llguidance.LLTokenizer, described: str, field: str) -> llguidance.LLMatcher:
    """A grammar that `GrammarForms` described, at its beginning, with the first mask made.

    The limits bound one mask; compiling may take minutes before they refuse it. Lets go of Python's lock meanwhile.
    Raises InvalidParameter naming `field`, also where no token can even begin.
    """
    matcher = llguidance.LLMatcher(tokenizer, described, log_level=0, limits=_LIMITS)
    if not matcher.is_error():
        mask = matcher.compute_bitmask()
        if not matcher.is_error() and any(mask):
            return matcher
    reason = first_line(matcher.get_error()) or "no token of this model can begin the answer"
    raise InvalidParameter(f"{field}: {reason}", param=field)


class _Tokens:
    """The vocabulary in llguidance's form."""

    def __init__(self, vocabulary: Vocabulary, eos: frozenset[int]) -> None:
        self.eos_token_id = min(eos, default=0)
        self.bos_token_id = None
        self.tokens = vocabulary.pieces
        self.special_token_ids = list(vocabulary.controls)
        self._vocabulary = vocabulary
        self._most_forced = max(_LEAST_FORCED, 4 * max(map(len, vocabulary.pieces), default=0))

    def __call__(self, text: bytes) -> list[int]:
        """Used where a grammar leaves no choice, for all of the text that is certain, though its first token is all
        that a mask needs. Not the tokenizer itself: some write a space where a text begins.
        """
        return self._vocabulary.tokens(text[: self._most_forced])
