"""From tokens to text, piece by piece: no half characters, no half stop strings."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

_BROKEN = "\ufffd"


class TextStream:
    """Turns one request's tokens into text as they come.

    `push` returns the text that has become certain. Text that may yet turn into a stop string is held back; once a stop
    string appears, `stopped` is true and `text` ends before it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._ids: list[int] = []
        self._prefix = 0
        self._read = 0
        self._decoded = ""
        self._sent = 0
        self.stopped = False

    @property
    def text(self) -> str:
        """All text sent so far; after `finish`, the whole text."""
        return self._decoded[: self._sent]

    def push(self, token: int) -> str:
        """Take one token; returns the text to send, often empty."""
        self._ids.append(token)
        # Decoding from a little before the new token keeps the spaces that depend on the token before it.
        before = self._decode(self._ids[self._prefix : self._read])
        after = self._decode(self._ids[self._prefix :])
        if len(after) > len(before) and not after.endswith(_BROKEN):
            self._decoded += after[len(before) :]
            self._prefix, self._read = self._read, len(self._ids)
        return self._send(self._certain())

    def finish(self) -> str:
        """The end of generation; returns the text held back so far."""
        if not self.stopped:
            rest = self._decode(self._ids[self._prefix :])
            self._decoded += rest[len(self._decode(self._ids[self._prefix : self._read])) :]
            self._read = len(self._ids)
            self._certain()
        return self._send(len(self._decoded))

    def _certain(self) -> int:
        """How much of the text can be sent; cuts it where a stop string begins."""
        found = [place for stop in self._stop if (place := self._decoded.find(stop, self._sent)) >= 0]
        if found:
            self.stopped = True
            self._decoded = self._decoded[: min(found)]
            return len(self._decoded)
        held = max((_overlap(self._decoded, stop) for stop in self._stop), default=0)
        return len(self._decoded) - held

    def _send(self, end: int) -> str:
        start, self._sent = self._sent, max(self._sent, end)
        return self._decoded[start : self._sent]

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _overlap(text: str, stop: str) -> int:
    """The longest end of `text` that is a beginning of `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
