"""Conversations between their turns: each keeps its past, under a memory bound that drops the least recently used.

A past is the last turn's prompt, without its answer, and a copy of its kept cache. The copy never changes, so
any number of requests may go on from it at once. Each of them replaces it with its own prompt. Decisions look at bytes
and token ids alone.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from headmap.kvcache.transformers.on_top import ParkedSequence


@dataclass(frozen=True)
class SessionTurn:
    """A turn of a conversation.

    key: whose it is and its name. kv: how its cache is kept. pictures: a digest of each, in order.
    """

    key: Hashable
    kv: Hashable
    pictures: tuple[str, ...] = ()


@dataclass(eq=False)
class KeptSession:
    """A conversation's past: its `tokens`, and their kept cache."""

    turn: SessionTurn
    tokens: tuple[int, ...]
    parked: ParkedSequence
    users: int = 0

    def begins(self, turn: SessionTurn, tokens: Sequence[int]) -> bool:
        """Whether a prompt is this past and more: the same tokens, the same pictures, kept in the same way."""
        seen, pictures = len(self.tokens), self.turn.pictures
        return (
            turn.kv == self.turn.kv
            and len(tokens) > seen
            and tuple(tokens[:seen]) == self.tokens
            and turn.pictures[: len(pictures)] == pictures
        )


class Sessions:
    """The kept sessions of one model, at most `memory_bytes` of them. Safe to call from any thread."""

    def __init__(self, memory_bytes: int) -> None:
        self.memory_bytes = memory_bytes
        self._kept: OrderedDict[Hashable, KeptSession] = OrderedDict()
        self._lock = threading.Lock()
        self._nbytes = 0

    @property
    def nbytes(self) -> int:
        """Bytes of all pasts that are kept or in use."""
        return self._nbytes

    def __len__(self) -> int:
        return len(self._kept)

    def take(self, turn: SessionTurn, tokens: Sequence[int]) -> KeptSession | None:
        """The past that `tokens` goes on from, or None. It counts as used until `give_back`."""
        with self._lock:
            kept = self._kept.get(turn.key)
            if kept is None or not kept.begins(turn, tokens):
                return None
            self._kept.move_to_end(turn.key)
            kept.users += 1
            return kept

    def give_back(self, kept: KeptSession) -> None:
        with self._lock:
            kept.users -= 1
            if kept.users == 0 and self._kept.get(kept.turn.key) is not kept:
                self._nbytes -= kept.parked.nbytes

    def keep(self, turn: SessionTurn, tokens: Sequence[int], parked: ParkedSequence) -> bool:
        """Keep a conversation's past in place of an earlier one.

        Returns False if it does not fit. Then this conversation keeps no past, and the others stay.
        """
        with self._lock:
            self._drop(turn.key)
            idle = [(key, kept.parked.nbytes) for key, kept in self._kept.items() if kept.users == 0]
            if self._nbytes - sum(nbytes for _, nbytes in idle) + parked.nbytes > self.memory_bytes:
                return False
            for key, _ in idle:
                if self._nbytes + parked.nbytes <= self.memory_bytes:
                    break
                self._drop(key)
            self._kept[turn.key] = KeptSession(turn, tuple(tokens), parked)
            self._nbytes += parked.nbytes
            return True

    def drop(self, key: Hashable) -> bool:
        """Forget a session; whether there was one."""
        with self._lock:
            return self._drop(key)

    def _drop(self, key: Hashable) -> bool:
        kept = self._kept.pop(key, None)
        if kept is not None and kept.users == 0:
            self._nbytes -= kept.parked.nbytes
        return kept is not None
