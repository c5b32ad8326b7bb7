"""From tokens to events for callers: text, piece by piece, and one end."""

from __future__ import annotations

import logging
from collections.abc import Callable

from headmap.engine.messages import Event, Token
from headmap.engine.sampling.sampler import LogProbabilities
from headmap.engine.sequence import Sequence

log = logging.getLogger(__name__)


class Telling:
    """Tells the callers of one engine, on its thread.

    later: a token that ends nothing waits for `tell_untold`, which the engine calls once the next step has begun. So an
    asynchronous device does not wait for text. fail: ends a sequence whose token cannot be told.
    """

    def __init__(self, *, later: bool, fail: Callable[[Sequence, Exception], None]) -> None:
        self.later = later
        self._fail = fail
        self._untold: list[tuple[Sequence, int, LogProbabilities | None]] = []

    def token(self, sequence: Sequence, token: int, logprobs: LogProbabilities | None, *, last: bool) -> None:
        """Tell a token, now or later. `last`: whether it ends the answer; with stop strings any may."""
        if self.later and not last and not sequence.request.sampling.stop:
            self._untold.append((sequence, token, logprobs))
        else:
            self._say(sequence, token, logprobs, last)

    def tell_untold(self) -> None:
        """Tell the tokens that wait for it."""
        untold, self._untold = self._untold, []
        for waiting in untold:
            try:
                self._say(*waiting)
            except Exception as error:
                self._fail(waiting[0], error)

    def event(self, sequence: Sequence, event: Event) -> None:
        try:
            sequence.on_event(event)
        except Exception:  # a listener's fault is not the engine's
            log.exception("the listener of request %s failed", sequence.id)

    def _say(self, sequence: Sequence, token: int, logprobs: LogProbabilities | None, last: bool = False) -> None:
        text = "" if token in sequence.state.ends else sequence.stream.push(token)
        last = last or sequence.stream.stopped
        logprob, top = (None, ()) if logprobs is None else logprobs
        self.event(sequence, Token(token, text, logprob, top, last))
