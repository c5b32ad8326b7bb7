"""The bytes of each token of a vocabulary, for log probabilities by token and for grammars."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_SPACE = "▁"


@dataclass(frozen=True)
class Vocabulary:
    """pieces: bytes by token id, none for control tokens. controls: names of control tokens, by id."""

    pieces: tuple[bytes, ...]
    controls: dict[int, str]

    def text(self, token: int) -> str:
        """A token as people read it; a part of a character becomes U+FFFD."""
        if token in self.controls:
            return self.controls[token]
        return self.written(token).decode("utf-8", "replace")

    def written(self, token: int) -> bytes:
        """The bytes of a token. Models may have more rows than the tokenizer has tokens; the others write nothing."""
        return self.pieces[token] if token < len(self.pieces) else b""

    def join(self, tokens: Iterable[int]) -> str:
        """Tokens as one text, control tokens by name. Their bytes are joined first: a character may take several."""
        names = (self.controls[one].encode() if one in self.controls else self.written(one) for one in tokens)
        return b"".join(names).decode("utf-8", "replace")

    def spells(self, text: str) -> bool:
        """Whether some sequence of tokens writes `text`."""
        try:
            data = text.encode()
        except UnicodeEncodeError:  # half of a character, as JSON's escapes can write
            return False
        if all(bytes([byte]) in self._known for byte in set(data)):
            return True
        reached = [True] + [False] * len(data)
        for end in range(1, len(data) + 1):
            starts = range(max(0, end - self._longest), end)
            reached[end] = any(reached[start] and data[start:end] in self._known for start in starts)
        return reached[-1]

    def tokens(self, data: bytes) -> list[int]:
        """Tokens that write `data`, the longest fitting one each time; ends early where none fits."""
        found: list[int] = []
        start = 0
        while start < len(data):
            ends = range(min(len(data), start + self._longest), start, -1)
            end = next((end for end in ends if data[start:end] in self._known), None)
            if end is None:
                break
            found.append(self._known[data[start:end]])
            start = end
        return found

    @cached_property
    def _known(self) -> dict[bytes, int]:
        return {piece: token for token, piece in reversed(list(enumerate(self.pieces))) if piece}

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self._known), default=0)


def read_vocabulary(tokenizer: PreTrainedTokenizerBase) -> Vocabulary:
    """The vocabulary of any tokenizer: byte-level, with byte fallback, with marked spaces, or plain text."""
    kinds = _decoders(tokenizer)
    added = {token: one.content for token, one in tokenizer.added_tokens_decoder.items()}
    controls = {token: added[token] for token, one in tokenizer.added_tokens_decoder.items() if one.special}
    size = 1 + max([*tokenizer.get_vocab().values(), *added])
    names: list[str] = [""] * size
    for name, token in tokenizer.get_vocab().items():
        names[token] = name
    byte_level = "ByteLevel" in kinds
    spaced = bool(kinds & {"Metaspace", "Replace"})
    pieces = []
    for token, name in enumerate(names):
        if token in controls:
            pieces.append(b"")
        elif token in added:
            pieces.append(name.encode())
        elif byte_level and all(character in _BYTE_OF for character in name):
            pieces.append(bytes(_BYTE_OF[character] for character in name))
        elif "ByteFallback" in kinds and (match := _BYTE.fullmatch(name)):
            pieces.append(bytes.fromhex(match[1]))
        else:
            pieces.append((name.replace(_SPACE, " ") if spaced else name).encode())
    return Vocabulary(tuple(pieces), controls)


def _decoders(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """The kinds of decoders in a tokenizer of the tokenizers library."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    decoder: dict[str, Any] = (json.loads(backend.to_str())["decoder"] if backend is not None else None) or {}
    parts: Sequence[dict[str, Any]] = decoder.get("decoders", [decoder])
    return {str(part.get("type")) for part in parts}


def _byte_alphabet() -> dict[str, int]:
    """Byte-level tokenizers write each byte as one printable character (GPT-2): the printable ones as themselves."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()
