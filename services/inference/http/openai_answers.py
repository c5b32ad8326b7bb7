"""Shared by OpenAI's routes: the request in our form, ids, usage, log probabilities, the end of a stream."""

from __future__ import annotations

import json
import math
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Literal

from sse_starlette import ServerSentEvent

from headmap.engine.messages import Finished, Token
from headmap.engine.vocabulary import Vocabulary
from headmap.errors import InvalidParameter
from headmap.http.costs import MAX_NESTED_JSON, Allowance, shown
from services.inference.asked import AnswerForm, AskedRequest, FieldNames, given
from services.inference.bridge import Generation
from services.inference.http.answers import Answers
from services.inference.http.kv_choice import Chosen
from services.inference.http.schemas.openai import (
    CachedTokens,
    JsonObject,
    JsonSchemaFormat,
    JsonValue,
    OpenAIRequest,
    ResponseFormat,
    StructuredOutputs,
    TokenLogprob,
    TopLogprob,
    Usage,
)
from services.inference.http.server_sent_events import as_stream_error, event, raw_event
from services.inference.intake.conversation import Conversation

_LEAST = -9999.0
"""Stands for minus infinity, which JSON does not have."""


def asked_of(
    body: OpenAIRequest,
    chosen: Chosen,
    prompt: Conversation | str | tuple[int, ...],
    names: FieldNames,
    new_tokens: int | None,
    top_logprobs: int | None,
) -> AskedRequest:
    """Raises InvalidParameter if several fields ask for a form of the answer, or a token id is not a number."""
    sampling, do_sample = sampling_of(body)
    if "top_k" in sampling:
        sampling["top_k"] = max(sampling["top_k"], 0)
    if body.logit_bias:
        sampling["logit_bias"] = {_token_id(name): bias for name, bias in body.logit_bias.items()}
    if body.stop_token_ids:
        sampling["stop_token_ids"] = frozenset(body.stop_token_ids)
    return AskedRequest(
        prompt=prompt,
        names=names,
        kv=chosen.kv,
        map=chosen.map,
        policy=chosen.policy,
        max_new_tokens=new_tokens,
        do_sample=body.do_sample if do_sample is None else do_sample,
        sampling=sampling,
        stop=body.stops,
        ignore_eos=body.ignore_eos,
        top_logprobs=top_logprobs,
        form=_form_of(body),
    )


def sampling_of(body: object) -> tuple[dict[str, Any], bool | None]:
    """The sampling fields of a body, and False if temperature or top_p 0 asks for the likeliest tokens."""
    sampling = given(body)
    greedy = [name for name in ("temperature", "top_p") if sampling.get(name) == 0]
    for name in greedy:
        del sampling[name]
    return sampling, False if greedy else None


def _token_id(name: str) -> int:
    try:
        return int(name)
    except ValueError:
        raise InvalidParameter(f"logit_bias: {shown(name)} is no token id", param="logit_bias") from None


def _form_of(body: OpenAIRequest) -> AnswerForm | None:
    asked = [
        form_of_format(body.response_format, "response_format"),
        *_structured(body.structured_outputs),
        _json(body.guided_json, "guided_json"),
        _plain("regex", body.guided_regex, "guided_regex"),
        _plain("choice", body.guided_choice, "guided_choice"),
        _plain("grammar", body.guided_grammar, "guided_grammar"),
    ]
    forms = [form for form in asked if form is not None]
    if len(forms) > 1:
        raise InvalidParameter(
            f"{forms[1].field}: an answer has one form, and {forms[0].field} asks for another", param=forms[1].field
        )
    return forms[0] if forms else None


def form_of_format(asked: ResponseFormat | None, field: str) -> AnswerForm | None:
    """`field`: where the request has it."""
    if isinstance(asked, JsonObject):
        name = "value" if asked.json_schema is None else "schema"
        return AnswerForm("json_schema", asked.json_schema or asked.value or {"type": "object"}, f"{field}.{name}")
    if isinstance(asked, JsonSchemaFormat):
        schema = asked.json_schema.value
        return AnswerForm(
            "json_schema", {"type": "object"} if schema is None else schema, f"{field}.json_schema.schema"
        )
    if isinstance(asked, JsonValue):
        return AnswerForm("json_schema", asked.value, f"{field}.value")
    return None


def _structured(asked: StructuredOutputs | None) -> list[AnswerForm | None]:
    if asked is None:
        return []
    field = "structured_outputs"
    return [
        _json(asked.json_schema, f"{field}.json"),
        _json({"type": "object"} if asked.json_object else None, f"{field}.json_object"),
        _plain("regex", asked.regex, f"{field}.regex"),
        _plain("choice", asked.choice, f"{field}.choice"),
        _plain("grammar", asked.grammar, f"{field}.grammar"),
    ]


def _json(asked: dict[str, Any] | str | None, field: str) -> AnswerForm | None:
    if isinstance(asked, str):
        asked = json_object_of(asked, field)
    return None if asked is None else AnswerForm("json_schema", asked, field)


def json_object_of(text: str, field: str) -> dict[str, Any]:
    """Raises InvalidParameter naming `field` for a text that is no JSON object, and PayloadTooLarge."""
    Allowance(MAX_NESTED_JSON, "characters of JSON").spend(len(text), field)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidParameter(f"{field}: not JSON ({error})", param=field) from error
    if not isinstance(value, dict):
        raise InvalidParameter(f"{field}: must be a JSON object", param=field)
    return value


def _plain(kind: Literal["regex", "choice", "grammar"], value: Any, field: str) -> AnswerForm | None:
    return None if value is None else AnswerForm(kind, value, field)


def head(answers: Answers, prefix: str) -> dict[str, Any]:
    first = answers.generations[0]
    return {
        "id": f"{prefix}-{first.request.id}",
        "created": int(time.time()),
        "model": answers.model,
        "system_fingerprint": first.served.info.revision,
    }


def reason(finished: Finished) -> Literal["stop", "length"]:
    return "length" if finished.finish_reason == "length" else "stop"


def usage(generations: Sequence[Generation], finished: Sequence[Finished], n: int) -> Usage:
    """`finished`: the result of each generation. There are n generations to a prompt."""
    new = sum(len(one.token_ids) for one in finished)
    return _usage(generations[::n], new, sum(one.reused_tokens for one in finished[::n]))


def usage_so_far(generations: Sequence[Generation], new_tokens: int, n: int) -> Usage:
    """`new_tokens`: of all generations, up to a chunk."""
    return _usage(generations[::n], new_tokens, 0)


def _usage(firsts: Sequence[Generation], new: int, cached: int) -> Usage:
    prompt = sum(one.request.prompt.prompt_tokens for one in firsts)
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=new,
        total_tokens=prompt + new,
        prompt_tokens_details=CachedTokens(cached_tokens=cached),
    )


def logprob_of(token: Token, vocabulary: Vocabulary) -> TokenLogprob:
    """`token` with the requested log probabilities."""
    top = [_logprob(other, value, vocabulary) for other, value in token.top]
    own = _logprob(token.id, token.logprob if token.logprob is not None else -math.inf, vocabulary)
    return TokenLogprob(**own.model_dump(), top_logprobs=top)


def _logprob(token: int, value: float, vocabulary: Vocabulary) -> TopLogprob:
    return TopLogprob(token=vocabulary.text(token), logprob=max(value, _LEAST), bytes=list(vocabulary.written(token)))


async def ended(events: AsyncGenerator[ServerSentEvent, None]) -> AsyncGenerator[ServerSentEvent, None]:
    """`events`, then an error event if they fail, then [DONE]."""
    try:
        async for one in events:
            yield one
    except Exception as error:
        problem = as_stream_error(error)
        kind = "server_error" if problem.status >= 500 else "invalid_request_error"
        told = {"message": problem.detail, "type": kind, "param": problem.param, "code": problem.code}
        yield event({"error": told}, "error")
    yield raw_event("[DONE]")
