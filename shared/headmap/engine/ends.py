"""How a request ends: with an answer, with an error, or by going back to the queue. Each way frees its memory."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

from headmap.engine.failures import as_headmap_error, raise_if_broken
from headmap.engine.messages import Cancelled, Failed
from headmap.engine.reuse.sessions import Sessions
from headmap.engine.roster import Roster
from headmap.engine.sequence import Sequence
from headmap.engine.telling import Telling
from headmap.errors import HeadmapError
from headmap.kvcache.transformers.cache import RaggedCache

log = logging.getLogger(__name__)


class Ends:
    """Ends the requests of one engine, on its thread. Each gets one terminal event. `later`: see `Telling`."""

    def __init__(self, cache: RaggedCache, roster: Roster, sessions: Sessions, *, later: bool) -> None:
        self.telling = Telling(later=later, fail=self.fail)
        self.finished_total = self.failed_total = 0
        self._cache = cache
        self._roster = roster
        self._sessions = sessions

    def finish(self, sequence: Sequence, reason: str) -> None:
        tail = sequence.stream.finish()
        if len(sequence.tokens) <= 1:
            self.keep_session(sequence)
        self._leave(sequence)
        end = sequence.finished(reason, tail, self._cache.paging)
        sequence.ended = True
        self.finished_total += 1
        self.telling.event(sequence, end)

    def keep_session(self, sequence: Sequence) -> None:
        """Copy a conversation's cache for its next turn, if that fits the sessions' memory.

        It copies the prompt alone, before any token of the answer has run: the client's next prompt may write the same
        answer in other tokens.
        """
        session = sequence.request.session
        held = sequence.kept_tokens * self._cache.shape.token_bytes
        if session is None or sequence.session_kept or len(sequence.tokens) > 1 or held > self._sessions.memory_bytes:
            return
        try:
            parked = self._cache.park(sequence.slot)
            sequence.session_kept = self._sessions.keep(session, sequence.prompt_ids, parked)
        except Exception as error:  # the next turn takes longer; this one keeps its answer
            raise_if_broken(error)
            log.exception("the session of request %s is not kept", sequence.id)

    def fail(self, sequence: Sequence, error: BaseException) -> None:
        """End a sequence with an error. Its client is told first. Does nothing if it has ended."""
        self.telling.tell_untold()
        if sequence.ended:
            return
        self._tell_failure(sequence, as_headmap_error(error))
        self._leave(sequence)

    def fail_all(self, sequences: Iterable[Sequence], error: Exception) -> None:
        """End sequences whose shared work failed. Raises DeviceFailed if the device itself failed."""
        raise_if_broken(error)
        for sequence in sequences:
            self.fail(sequence, error)

    def cancel(self) -> None:
        """End the requests whose clients have gone."""
        for sequence in self._roster.take_cancelled():
            self.fail(sequence, Cancelled("the client went away"))

    def put_back(self, sequence: Sequence) -> None:
        """Free a sequence's memory; it starts next, and goes on from the tokens that it has."""
        self._release(sequence)
        sequence.submitted = time.monotonic()
        self._roster.put_back(sequence)

    def drain(self, why: HeadmapError) -> None:
        """End all requests with the engine. Nothing is cleaned up: the cache ends, too."""
        for sequence in self._roster.drain():
            self._tell_failure(sequence, why)

    def _tell_failure(self, sequence: Sequence, error: HeadmapError) -> None:
        sequence.ended = True
        self.failed_total += 1
        if error.status >= 500:
            whose = {"request_id": sequence.request.request_id, "code": error.code, **sequence.request.trace_ids}
            log.error("request failed: %s", error.detail, exc_info=error.__cause__, extra=whose)
        self.telling.event(sequence, Failed(error))

    def _leave(self, sequence: Sequence) -> None:
        """Remove a running sequence and free its memory. An error here ends the engine: its books would be wrong."""
        self._roster.remove(sequence)
        self._release(sequence)
        if sequence.session is not None:
            self._sessions.give_back(sequence.session)
            sequence.session = None

    def _release(self, sequence: Sequence) -> None:
        slot, sequence.slot = sequence.slot, -1
        if slot >= 0:
            self._cache.release(slot)
