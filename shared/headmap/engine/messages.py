"""The messages between the engine and its callers: a request in, tokens and one terminal event out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from headmap.engine.reuse.sessions import SessionTurn
from headmap.engine.sampling.params import SamplingParams
from headmap.errors import HeadmapError
from headmap.families.base import PreparedPrompt
from headmap.head_scores import HeadScores
from headmap.kvcache.plan import KVRequest

if TYPE_CHECKING:
    from headmap.engine.sampling.grammar import Grammar


class Cancelled(HeadmapError):
    """The caller went away. Proxies log this as 499; nobody is left to read it."""

    code, status, title = "cancelled", 499, "Cancelled"


@dataclass(frozen=True)
class EngineRequest:
    """A prompt, how much of its cache to keep, and how to go on.

    scores: of the map to serve with, if there is one. grammar: the form of the answer. session: the prompt may go on
    from this conversation, and its past is kept at the end. watched: the result tells which tokens this layer and KV
    head keep. group: requests of one group differ in id and sampling alone, so one prefill may serve them all; they
    have no session and watch nothing. open_ended: `max_new_tokens` was not asked for, and is the room in the
    context. So the request starts once its prompt fits, and ends when memory is full. prompt_logprobs: the
    result tells the log probability of each prompt token and of so many likeliest ones; it takes no session's past.
    """

    id: str
    prompt: PreparedPrompt
    kv: KVRequest
    sampling: SamplingParams
    scores: HeadScores | None = None
    grammar: Grammar | None = None
    session: SessionTurn | None = None
    watched: tuple[int, int] | None = None
    group: str | None = None
    open_ended: bool = False
    prompt_logprobs: int | None = None
    request_id: str | None = None
    """Of the HTTP request, for the log; clients choose it, so only `id` tells requests apart."""
    trace_ids: Mapping[str, str] = field(default_factory=dict)
    """`trace_id` and `span_id` of the HTTP request, for the log."""


@dataclass(frozen=True)
class Token:
    """One generated token; `text` became certain with it and may be empty.

    logprob: natural logarithm of its probability. top: the likeliest tokens with theirs. Both only if requested.
    last: Finished follows, and no token.
    """

    id: int
    text: str
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    last: bool = False


@dataclass(frozen=True)
class Finished:
    """The end of a request that went well, with times in milliseconds and the cache's content after prefill."""

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
    tail: str = ""
    """Text held back until the end, the part of `generated_text` that no Token event brought."""
    reused_tokens: int = 0
    """Prompt tokens that were not prefilled, since the session held them."""
    session_kept: bool = False
    """Whether the session's past is kept for its next turn."""
    kept_positions: tuple[int, ...] = ()
    """Indices in the prompt of what the watched head keeps."""
    prompt_logprobs: tuple[Token, ...] = ()
    """The prompt's tokens, without text, where they were asked for. The first has no log probability, nor have those of
    pictures."""


@dataclass(frozen=True)
class Failed:
    """The end of a request that failed or was cancelled."""

    error: HeadmapError


Event = Token | Finished | Failed
OnEvent = Callable[[Event], None]
"""Called on the engine's thread, in order; must not block."""


@dataclass(frozen=True)
class EngineStats:
    """The engine at one moment. KV bytes are of held pages and of the whole pool; totals count since the start."""

    alive: bool
    running: int
    waiting: int
    kv_held_bytes: int
    kv_capacity_bytes: int
    kv_block_tokens: int
    kv_block_bytes: int
    """Of one page in every KV head of every layer that sees everything."""
    prompt_tokens_total: int
    generated_tokens_total: int
    finished_total: int
    failed_total: int
    preempted_total: int
    session_bytes: int
