"""POST /v1/chat/completions, in OpenAI's shape; DELETE /v1/sessions/{session}."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from sse_starlette import ServerSentEvent

from headmap.engine.messages import Finished, Token
from headmap.errors import InvalidParameter
from headmap.http.auth import key_name
from headmap.http.bodies import MeasuredRoute
from services.inference.asked import FieldNames
from services.inference.bridge import Answer, Generation
from services.inference.http.answers import Answers
from services.inference.http.cache_details import kv_details, session_details
from services.inference.http.chat_messages import conversation_of
from services.inference.http.deps import TheServing
from services.inference.http.kv_choice import HEADER, choose
from services.inference.http.openai_answers import asked_of, ended, head, logprob_of, reason, usage, usage_so_far
from services.inference.http.schemas.openai_chat import (
    AnswerMessage,
    ChatCompletion,
    ChatLogprobs,
    ChatRequest,
    Choice,
    FunctionBody,
    ToolCallBody,
)
from services.inference.http.server_sent_events import OPENAPI, event, stream_response
from services.inference.http.told_headers import headers, ignored_fields
from services.inference.http.tool_answers import TOOLS, ToolUse, settle_tools
from services.inference.tools.calls import Call, CallArguments, CallBegins, ContentDelta, Delta, fold

router = APIRouter(route_class=MeasuredRoute, tags=["openai"])


@router.post(
    "/v1/chat/completions",
    summary="Chat, with pictures",
    response_model=ChatCompletion,
    responses={
        200: {"description": "The answer; with `stream`, server-sent events that end with [DONE]", "content": OPENAPI},
        404: {"description": "No such model or map"},
        409: {"description": "No map for the model, or one of another shape"},
        429: {"description": "Too many requests; Retry-After says when to come back"},
    },
)
async def chat(body: ChatRequest, request: Request, serving: TheServing) -> Response:
    ignored = ignored_fields(body, serving.settings)
    chosen = await choose(serving, body.model, request.headers.get(HEADER), body.kv)
    n = body.n or 1
    top_logprobs = _top_logprobs(body)
    if n > 1 and body.session is not None:
        raise InvalidParameter(f"session: n must be 1 in a session, got {n}", param="session")
    tools = settle_tools(chosen.served, body.tools or (), body.tool_choice, body.parallel_tool_calls)
    conversation = conversation_of(
        body.messages, serving.settings, tools=tools.shown, template_kwargs=body.chat_template_kwargs or {}
    )
    names = FieldNames("messages", body.new_tokens_field)
    asked = asked_of(body, chosen, conversation, names, body.new_tokens, top_logprobs)
    # A call that is forced is the whole answer: no other form can hold beside it.
    asked = replace(asked, form=tools.form or asked.form, session=body.session, caller=key_name(request))
    answers = await Answers.prepare(request, serving, chosen, [asked], n)
    first = answers.generations[0]
    told = {} if tools.told is None else {TOOLS: tools.told}
    if body.stream:
        answers.start()
        events = _Stream(answers, body, tools).events()
        return stream_response(ended(events), serving.settings.drain_seconds, headers(first, ignored) | told)
    whole = await answers.whole(request)
    finished = [answer.finished for answer in whole]
    completion = ChatCompletion(
        **head(answers, "chatcmpl"),
        choices=[_choice(number, answer, tools) for number, answer in enumerate(whole)],
        usage=usage(answers.generations, finished, n),
        kv=kv_details(first, finished[0]),
        session=session_details(first, finished[0]),
    )
    document = completion.model_dump()
    for choice in document["choices"]:
        if choice["message"]["tool_calls"] is None:
            del choice["message"]["tool_calls"]  # clients take null for a list
    return JSONResponse(document, headers=headers(first, ignored, finished[0]) | told)


@router.delete(
    "/v1/sessions/{session}",
    status_code=204,
    summary="Forget a session",
    responses={404: {"description": "Nothing is kept under this name"}},
)
async def drop_session(
    session: Annotated[str, Path(max_length=64)],
    request: Request,
    serving: TheServing,
    model: Annotated[str | None, Query(description="name of one of several served models")] = None,
) -> None:
    chosen = await choose(serving, model, None, None)
    serving.drop_session(chosen.served, key_name(request), session)


def _top_logprobs(body: ChatRequest) -> int | None:
    if body.top_logprobs and not body.logprobs:
        raise InvalidParameter(f"top_logprobs: {body.top_logprobs} needs logprobs to be true", param="top_logprobs")
    return (body.top_logprobs or 0) if body.logprobs else None


def _choice(number: int, answer: Answer, tools: ToolUse) -> Choice:
    finished, generation = answer.finished, answer.generation
    asked = generation.request.sampling.top_logprobs is not None
    logprobs = [part for token in answer.tokens for part in _logprobs(token, generation)]
    content, why = finished.generated_text, reason(finished)
    calls: list[Call] = []
    if tools.reader is not None:
        teller = tools.teller(generation.served.opened.vocabulary)
        content, calls = fold(teller.whole(answer.tokens, finished.tail))
    message = AnswerMessage(
        content=content or (None if calls else ""),
        tool_calls=[ToolCallBody(id=c.id, function=FunctionBody(name=c.name, arguments=c.arguments)) for c in calls]
        or None,
    )
    return Choice(
        index=number,
        message=message,
        logprobs=ChatLogprobs(content=logprobs) if asked else None,
        finish_reason="tool_calls" if calls and why == "stop" else why,
    )


def _logprobs(token: Token, generation: Generation) -> list[Any]:
    """One entry; none if the token ends the answer, or log probabilities were not asked for."""
    if token.logprob is None or generation.ends(token.id):
        return []
    return [logprob_of(token, generation.served.opened.vocabulary)]


class _Stream:
    """The chunks of one answer's stream. The role goes out with a choice's first chunk."""

    def __init__(self, answers: Answers, body: ChatRequest, tools: ToolUse) -> None:
        self._answers, self._body = answers, body
        self._same = {**head(answers, "chatcmpl"), "object": "chat.completion.chunk"}
        self._tellers = [tools.teller(one.served.opened.vocabulary) for one in answers.generations]
        self._begun: set[int] = set()
        self._new_tokens = 0

    async def events(self) -> AsyncGenerator[ServerSentEvent, None]:
        answers, results = self._answers, dict[int, Finished]()
        n = len(answers.generations)
        async for index, token, finished in answers.tokens():
            self._new_tokens += 1
            logprobs = _logprobs(token, answers.generations[index])
            deltas = [_delta(one) for one in self._tellers[index].feed(token, finished is not None)]
            if logprobs and not deltas:
                deltas = [{"content": ""}]
            for delta in deltas:
                yield self._chunk(index, delta, logprobs)
                logprobs = []
            if finished is not None:
                results[index] = finished
                yield self._last(index, finished)
        if self._body.include_usage:
            told = usage(answers.generations, [results[index] for index in sorted(results)], n)
            kv = kv_details(answers.generations[0], results[0]).model_dump()
            yield event({**self._same, "choices": [], "usage": told.model_dump(), "kv": kv})

    def _last(self, index: int, finished: Finished) -> ServerSentEvent:
        generation, why = self._answers.generations[index], reason(finished)
        session = session_details(generation, finished)
        extra = {"kv": kv_details(generation, finished).model_dump()}
        if session is not None:
            extra["session"] = session.model_dump()
        why_told = "tool_calls" if self._tellers[index].calls and why == "stop" else why
        return self._chunk(index, {}, [], reason=why_told, **extra)

    def _chunk(
        self, index: int, delta: Mapping[str, Any], logprobs: list[Any], reason: str | None = None, **extra: Any
    ) -> ServerSentEvent:
        if index not in self._begun:
            self._begun.add(index)
            delta = {"role": "assistant", "content": None if "tool_calls" in delta else "", **delta}
        told = ChatLogprobs(content=logprobs).model_dump() if logprobs else None
        choice = {"index": index, "delta": delta, "logprobs": told, "finish_reason": reason}
        return event({**self._same, "choices": [choice], **self._usage(), **extra})

    def _usage(self) -> dict[str, Any]:
        if self._body.usage_on_every_chunk:
            generations = self._answers.generations
            return {"usage": usage_so_far(generations, self._new_tokens, len(generations)).model_dump()}
        return {"usage": None} if self._body.include_usage else {}


def _delta(delta: Delta) -> dict[str, Any]:
    match delta:
        case ContentDelta(text):
            return {"content": text}
        case CallBegins(index, identity, name):
            function = {"name": name, "arguments": ""}
            return {"tool_calls": [{"index": index, "id": identity, "type": "function", "function": function}]}
        case CallArguments(index, text):
            return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}
