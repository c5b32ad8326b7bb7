"""POST /v1/chat/completions, in OpenAI's shape; DELETE /v1/sessions/{session}."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from sse_starlette import ServerSentEvent

from headmap.engine.messages import Finished, Token
from headmap.errors import EmptyPrompt, InvalidParameter
from headmap.http.bodies import LargeBodyRoute
from headmap.settings import Settings
from services.inference.bridge import Answer, Generation
from services.inference.http.answers import Answers, caller
from services.inference.http.cache_details import kv_details, session_details
from services.inference.http.deps import TheServing
from services.inference.http.openai_answers import asked_of, ended, head, logprob_of, reason, says, usage
from services.inference.http.schemas.openai_chat import (
    AnswerMessage,
    ChatCompletion,
    ChatLogprobs,
    ChatRequest,
    Choice,
    ImagePart,
)
from services.inference.http.server_sent_events import OPENAPI, event, stream_response
from services.inference.intake.conversation import Conversation, Message, check_count
from services.inference.intake.images import ImageSource

router = APIRouter(route_class=LargeBodyRoute, tags=["openai"])


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
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidParameter(f"top_logprobs: {body.top_logprobs} needs logprobs to be true", param="top_logprobs")
    n = body.n or 1
    if n > 1 and body.session is not None:
        raise InvalidParameter(f"session: goes on with one answer, got n = {n}", param="session")
    top_logprobs = (body.top_logprobs or 0) if body.logprobs else None
    asked = asked_of(body, _conversation(body, serving.settings), body.new_tokens, top_logprobs)
    asked = replace(asked, session=body.session, caller=caller(request))
    answers = await Answers.prepare(request, serving, serving.model(body.model), [asked], n)
    if body.stream:
        answers.start()
        return stream_response(ended(_events(answers, body.include_usage)), serving.settings.drain_seconds)
    whole = await answers.whole(request)
    first, finished = answers.generations[0], [answer.finished for answer in whole]
    completion = ChatCompletion(
        **head(first, "chatcmpl"),
        choices=[_choice(number, answer) for number, answer in enumerate(whole)],
        usage=usage(answers.generations, finished, n),
        kv=kv_details(first, finished[0]),
        session=session_details(first, finished[0]),
    )
    return JSONResponse(completion.model_dump())


@router.delete(
    "/v1/sessions/{session}",
    status_code=204,
    summary="Forget what is kept of a conversation",
    responses={404: {"description": "Nothing is kept under this name"}},
)
async def drop_session(
    session: Annotated[str, Path(max_length=64)],
    request: Request,
    serving: TheServing,
    model: Annotated[str | None, Query(description="where several are served")] = None,
) -> None:
    serving.drop_session(serving.model(model), caller(request), session)


def _conversation(body: ChatRequest, settings: Settings) -> Conversation:
    """Raises EmptyPrompt where no message holds text."""
    messages: list[Message] = []
    images: list[ImageSource] = []
    for number, message in enumerate(body.messages):
        parts: list[dict[str, str]] = []
        content = message.content
        if isinstance(content, str):
            parts.append({"type": "text", "text": content})
        else:
            for place, part in enumerate(content):
                if isinstance(part, ImagePart):
                    field = f"messages.{number}.content.{place}.image_url.url"
                    images.append(ImageSource(part.image_url.url, field, len(images) + 1))
                    parts.append({"type": "image"})
                else:
                    parts.append({"type": "text", "text": part.text})
        role = "system" if message.role == "developer" else message.role
        messages.append({"role": role, "content": parts})
    check_count(len(images), settings, "messages")
    conversation = Conversation(tuple(messages), tuple(images))
    if not any(part.get("text", "").strip() for message in messages for part in message["content"]):
        raise EmptyPrompt("messages: hold no text", param="messages")
    return conversation


def _choice(number: int, answer: Answer) -> Choice:
    finished = answer.finished
    asked = answer.generation.request.sampling.top_logprobs is not None
    logprobs = [part for token in answer.tokens for part in _logprobs(token, answer.generation)]
    return Choice(
        index=number,
        message=AnswerMessage(content=finished.generated_text),
        logprobs=ChatLogprobs(content=logprobs) if asked else None,
        finish_reason=reason(finished),
    )


def _logprobs(token: Token, generation: Generation) -> list[Any]:
    """One entry, or none where the token is no part of the answer or they were not asked for."""
    if token.logprob is None or not says(token, generation):
        return []
    return [logprob_of(token, generation.served.opened.vocabulary)]


async def _events(answers: Answers, include_usage: bool) -> AsyncGenerator[ServerSentEvent, None]:
    first = answers.generations[0]
    same = {**head(first, "chatcmpl"), "object": "chat.completion.chunk"}
    rest: dict[str, Any] = {"usage": None} if include_usage else {}

    def chunk(index: int, delta: dict[str, str], logprobs: list[Any], **extra: Any) -> ServerSentEvent:
        told = ChatLogprobs(content=logprobs).model_dump() if logprobs else None
        choice = {"index": index, "delta": delta, "logprobs": told, "finish_reason": extra.pop("reason", None)}
        return event({**same, "choices": [choice], **rest, **extra})

    for index in range(len(answers.generations)):
        yield chunk(index, {"role": "assistant", "content": ""}, [])
    results: dict[int, Finished] = {}
    async for index, token, finished in answers.tokens():
        generation = answers.generations[index]
        logprobs = _logprobs(token, generation)
        if token.text or logprobs:
            yield chunk(index, {"content": token.text}, logprobs)
        if finished is not None:
            results[index] = finished
            session = session_details(generation, finished)
            extra = {"kv": kv_details(generation, finished).model_dump()}
            if session is not None:
                extra["session"] = session.model_dump()
            yield chunk(index, {}, [], reason=reason(finished), **extra)
    if include_usage:
        told = usage(answers.generations, [results[index] for index in sorted(results)], len(answers.generations))
        kv = kv_details(first, results[0]).model_dump()
        yield event({**same, "choices": [], "usage": told.model_dump(), "kv": kv})
