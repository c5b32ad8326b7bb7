"""The engine: one thread that owns a model and its ragged cache, and runs every request that was admitted.

A request waits, runs and ends in exactly one terminal event (`Finished` or `Failed`). Requests join and leave between
decode steps; each has its own method, budget, length and generator.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from headmap.errors import HeadmapError
from headmap.families.base import PreparedPrompt
from headmap.generation.sampling import SamplingParams
from headmap.head_scores import HeadScores
from headmap.kvcache.plan import KVRequest


@dataclass(frozen=True)
class EngineRequest:
    """A prompt, what to keep of it, and how to go on. `scores` are those of the map to serve with, if there is one."""

    id: str
    prompt: PreparedPrompt
    kv: KVRequest
    sampling: SamplingParams
    scores: HeadScores | None = None


@dataclass(frozen=True)
class Token:
    """One generated token; `text` is what became certain with it, maybe nothing."""

    id: int
    text: str


@dataclass(frozen=True)
class Finished:
    """The end of a request that went well. Times in milliseconds; what the cache really held after prefill."""

    generated_text: str
    finish_reason: str
    """`length`, `eos_token` or `stop_sequence`."""
    token_ids: tuple[int, ...]
    kept_tokens: int
    full_tokens: int
    kv_bytes: int
    kv_full_bytes: int
    budget: int
    queue_ms: float
    prefill_ms: float
    decode_ms_per_token: float


@dataclass(frozen=True)
class Failed:
    """The end of a request that went wrong, cancelled ones included."""

    error: HeadmapError


Event = Token | Finished | Failed
OnEvent = Callable[[Event], None]
"""Called on the engine's thread, in order; must not block."""
