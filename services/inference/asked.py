"""What HTTP asks of a model: the routes of all dialects bring their bodies into this one form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from headmap.kvcache.plan import KVRequest
from services.inference.intake.conversation import Conversation


@dataclass(frozen=True)
class AnswerForm:
    """The form that an answer must have; `field` is where the request says so."""

    kind: Literal["json_schema", "regex"]
    value: Any
    field: str


@dataclass(frozen=True, kw_only=True)
class AskedRequest:
    """A request as it was asked, nothing settled yet; None means the server's default.

    prompt: a conversation, or text to go on from without the chat template. kv: what to keep of the cache. map: id or
    alias of the map that sets the budgets. do_sample: None samples when temperature, top_p or top_k is given. session:
    the conversation's name. caller: the name of the key that owns the session. watched: the answer tells which tokens
    this layer and KV head keep.
    """

    prompt: Conversation | str
    kv: KVRequest | None = None
    map: str | None = None
    max_new_tokens: int | None = None
    do_sample: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: Sequence[str] = ()
    ignore_eos: bool = False
    top_logprobs: int | None = None
    form: AnswerForm | None = None
    session: str | None = None
    caller: str | None = None
    watched: tuple[int, int] | None = None
