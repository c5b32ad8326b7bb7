"""What HTTP asks of a model: the one form into which every dialect's route brings its body."""

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
    """A request before anything of it is settled; None means the server's default.

    prompt: a conversation, or text to go on from without the chat template. kv: what to keep of the cache, and map: the
    id or alias of the map to do it by. do_sample: when None, decided by whether temperature, top_p or top_k is given.
    session: the conversation's name, and caller: the name of the key whose session it is. watched: the layer and the KV
    head whose kept tokens are told.
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
