"""The state of one request that its next token depends on, beside the logits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from headmap.engine.sampling.params import SamplingParams

if TYPE_CHECKING:
    from headmap.engine.sampling.grammar import Grammar


class RequestState:
    """One request between two tokens: its tokens so far, where its grammar stands, which random number comes next.

    Nothing here depends on other requests: a preempted request keeps its state, or makes a new one and takes the same
    tokens again.
    """

    def __init__(
        self,
        params: SamplingParams,
        prompt_ids: Iterable[int] = (),
        *,
        eos: frozenset[int] = frozenset(),
        grammar: Grammar | None = None,
    ) -> None:
        self.params = params
        self.ends = params.stop_token_ids | (frozenset() if params.ignore_eos else eos)
        """Tokens that end the answer."""
        self.generated = 0
        """Tokens taken so far."""
        self._match = None if grammar is None else grammar.start()
        counted = sorted(set(prompt_ids)) if params.repetition_penalty != 1 else []
        self._seen = np.array(counted, dtype=np.int64)
        self._counts = np.zeros(len(counted), dtype=np.int64)
        self._places = {token: place for place, token in enumerate(counted)}

    def take(self, token: int) -> None:
        """Go on with a chosen token. Raises InvalidParameter if the grammar fails."""
        self.generated += 1
        if self.params.penalises:
            place = self._places.setdefault(token, len(self._seen))
            if place == len(self._seen):
                self._seen, self._counts = np.append(self._seen, token), np.append(self._counts, 0)
            self._counts[place] += 1
        if self._match is not None:
            self._match.accept(token)

    @property
    def done(self) -> bool:
        """Whether nothing may follow in the grammar; false without one."""
        return self._match is not None and self._match.done

    @property
    def has_grammar(self) -> bool:
        return self._match is not None

    @property
    def too_short(self) -> bool:
        """Whether the answer may not end yet."""
        return self.generated < self.params.min_tokens

    @property
    def seen(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Tokens that penalties concern, and how often the answer has each: 0 for tokens of the prompt alone."""
        return self._seen, self._counts

    def allowed(self, vocab: int) -> torch.Tensor:
        """(vocab,) bool: the tokens that may come next; before `min_tokens` no end token where others may come.

        Raises InvalidParameter if no token goes on, or if finding out takes too much work.
        """
        if self._match is None:
            return torch.ones(vocab, dtype=torch.bool)
        allowed = self._match.allowed(vocab)
        if self.too_short:
            going_on = allowed.clone()
            going_on[[token for token in self.ends if token < vocab]] = False
            return going_on if bool(going_on.any()) else allowed
        return allowed

    def uniform(self) -> float:
        """The next token's random number, in [0, 1): it depends on the seed and the token's index in the answer alone.

        A counter-based generator, Philox (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
        """
        philox = np.random.Philox(key=self.params.seed % 2**64, counter=self.generated)
        return np.random.Generator(philox).random()
