"""A request over HTTP: the routes of all dialects turn their bodies into this one form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from headmap.kvcache.plan import KVRequest
from services.inference.intake.conversation import Conversation
from services.inference.policies import ServedPolicy

SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "min_tokens",
)
"""Fields of a body that are fields of `SamplingParams` under the same names."""


@dataclass(frozen=True)
class AnswerForm:
    """The form that an answer must have; `field` is where the request says so.

    value: a JSON schema, a regular expression, the texts to choose from, or a grammar in Lark or GBNF.
    """

    kind: Literal["json_schema", "regex", "choice", "grammar"]
    value: Any
    field: str


@dataclass(frozen=True)
class FieldNames:
    """What the client calls the prompt and the number of tokens to generate, for errors to name."""

    prompt: str
    new_tokens: str


@dataclass(frozen=True, kw_only=True)
class AskedRequest:
    """A request before the server settles it; None means the server's default.

    prompt: a conversation, or text or token ids to go on from without the chat template. kv: what to keep of the cache.
    map: id or alias of the map that sets the budgets. policy: the policy that says `kv` and `map`. max_new_tokens:
    None is all that the context has room for. do_sample: None samples when temperature, top_p, top_k or min_p is given.
    sampling: what else `SamplingParams` takes. prompt_logprobs: tell the log probabilities of the prompt's tokens and
    of so many likeliest ones. session: the conversation's name. caller: the name of the key that owns the session.
    watched: the answer tells which tokens this layer and KV head keep.
    """

    prompt: Conversation | str | tuple[int, ...]
    names: FieldNames
    kv: KVRequest | None = None
    map: str | None = None
    policy: ServedPolicy | None = None
    max_new_tokens: int | None = None
    do_sample: bool | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    stop: Sequence[str] = ()
    ignore_eos: bool = False
    top_logprobs: int | None = None
    prompt_logprobs: int | None = None
    form: AnswerForm | None = None
    session: str | None = None
    caller: str | None = None
    watched: tuple[int, int] | None = None


def given(body: object) -> dict[str, Any]:
    """The sampling fields that a body gives."""
    return {name: value for name in SAMPLING if (value := getattr(body, name, None)) is not None}
