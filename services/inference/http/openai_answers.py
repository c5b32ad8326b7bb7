"""What OpenAI's two routes share: ids, usage, log probabilities, the form of an answer, the end of a stream."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Literal

from sse_starlette import ServerSentEvent

from headmap.engine.messages import Finished, Token
from headmap.engine.vocabulary import Vocabulary
from services.inference.asked import AnswerForm, AskedRequest
from services.inference.bridge import Generation
from services.inference.http.schemas.kv import asked_kv
from services.inference.http.schemas.openai import (
    CachedTokens,
    JsonObject,
    JsonSchemaFormat,
    OpenAIRequest,
    TokenLogprob,
    TopLogprob,
    Usage,
)
from services.inference.http.server_sent_events import as_stream_error, event, raw_event
from services.inference.intake.conversation import Conversation

_LEAST = -9999.0
"""Stands for minus infinity, which JSON does not have."""


def asked_of(
    body: OpenAIRequest, prompt: Conversation | str, new_tokens: int | None, top_logprobs: int | None
) -> AskedRequest:
    kv, named_map = asked_kv(body.kv)
    greedy = body.temperature == 0
    return AskedRequest(
        prompt=prompt,
        kv=kv,
        map=named_map,
        max_new_tokens=new_tokens,
        do_sample=False if greedy else None,
        temperature=None if greedy else body.temperature,
        top_p=body.top_p,
        top_k=None if body.top_k is None else max(body.top_k, 0),
        repetition_penalty=body.repetition_penalty,
        seed=body.seed,
        stop=body.stops,
        ignore_eos=body.ignore_eos,
        top_logprobs=top_logprobs,
        form=_form_of(body),
    )


def _form_of(body: OpenAIRequest) -> AnswerForm | None:
    asked = body.response_format
    if isinstance(asked, JsonObject):
        return AnswerForm("json_schema", {"type": "object"}, "response_format")
    if isinstance(asked, JsonSchemaFormat):
        schema = asked.json_schema.value
        value = {"type": "object"} if schema is None else schema
        return AnswerForm("json_schema", value, "response_format.json_schema.schema")
    return None


def head(generation: Generation, prefix: str) -> dict[str, Any]:
    return {
        "id": f"{prefix}-{generation.request.id}",
        "created": int(time.time()),
        "model": generation.served.info.name,
        "system_fingerprint": generation.served.info.revision,
    }


def reason(finished: Finished) -> Literal["stop", "length"]:
    return "length" if finished.finish_reason == "length" else "stop"


def usage(generations: Sequence[Generation], finished: Sequence[Finished], n: int) -> Usage:
    """`finished`: the result of each generation. There are n generations to a prompt."""
    prompt = sum(one.request.prompt.prompt_tokens for one in generations[::n])
    new = sum(len(one.token_ids) for one in finished)
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=new,
        total_tokens=prompt + new,
        prompt_tokens_details=CachedTokens(cached_tokens=sum(one.reused_tokens for one in finished[::n])),
    )


def says(token: Token, generation: Generation) -> bool:
    """Whether a token is part of the answer: the end token is not."""
    return generation.request.sampling.ignore_eos or token.id not in generation.served.opened.eos_token_ids


def logprob_of(token: Token, vocabulary: Vocabulary) -> TokenLogprob:
    """`token` with the requested log probabilities."""
    top = [_logprob(other, value, vocabulary) for other, value in token.top]
    own = _logprob(token.id, token.logprob if token.logprob is not None else -math.inf, vocabulary)
    return TokenLogprob(**own.model_dump(), top_logprobs=top)


def _logprob(token: int, value: float, vocabulary: Vocabulary) -> TopLogprob:
    return TopLogprob(token=vocabulary.text(token), logprob=max(value, _LEAST), bytes=list(vocabulary.written(token)))


async def ended(events: AsyncGenerator[ServerSentEvent, None]) -> AsyncGenerator[ServerSentEvent, None]:
    """`events`, an error event where they fail, and [DONE]."""
    try:
        async for one in events:
            yield one
    except Exception as error:
        problem = as_stream_error(error)
        kind = "server_error" if problem.status >= 500 else "invalid_request_error"
        told = {"message": problem.detail, "type": kind, "param": problem.param, "code": problem.code}
        yield event({"error": told}, "error")
    yield raw_event("[DONE]")
