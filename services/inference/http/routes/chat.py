"""POST /v1/chat/completions, in OpenAI's shape; DELETE /v1/sessions/{session}."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from sse_starlette import ServerSentEvent

from headmap.engine.messages import Finished, Token
from headmap.errors import EmptyPrompt, InvalidParameter
from headmap.http.bodies import LargeBodyRoute
from headmap.settings import Settings
from services.inference.http.answers import Choices, caller
from services.inference.http.deps import State
from services.inference.http.openai_answers import ended, form_of, head, logprob_of, reason, sampling_of, says, usage
from services.inference.http.running import Answer
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
from services.inference.requests import Ask, ReadyRequest

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
async def chat(body: ChatRequest, request: Request, state: State) -> Response:
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidParameter(f"top_logprobs: {body.top_logprobs} needs logprobs to be true", param="top_logprobs")
    n = body.n or 1
    if n > 1 and body.session is not None:
        raise InvalidParameter(f"session: goes on with one answer, got n = {n}", param="session")
    ask = Ask(
        prompt=_conversation(body, state.serving.settings),
        sampling=sampling_of(body, body.new_tokens, (body.top_logprobs or 0) if body.logprobs else None),
        kv=body.kv,
        form=form_of(body),
        session=body.session,
        caller=caller(request),
    )
    choices = await Choices.prepare(request, state, state.serving.model(body.model), [ask], n)
    if body.stream:
        choices.start()
        return stream_response(ended(_events(choices, body.include_usage)), state.serving.settings.drain_seconds)
    answers = await choices.whole(request)
    first, finished = choices.ready[0], [answer.finished for answer in answers]
    completion = ChatCompletion(
        **head(first, "chatcmpl"),
        choices=[_choice(number, answer) for number, answer in enumerate(answers)],
        usage=usage(choices.ready, finished, n),
        kv=first.kv_details(finished[0]),
        session=first.session_details(finished[0]),
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
    state: State,
    model: Annotated[str | None, Query(description="where several are served")] = None,
) -> None:
    state.serving.drop_session(state.serving.model(model), caller(request), session)


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
                    images.append(ImageSource(part.image_url.url, field))
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
    logprobs = [part for token in answer.tokens for part in _logprobs(token, answer.ready)]
    return Choice(
        index=number,
        message=AnswerMessage(content=finished.generated_text),
        logprobs=ChatLogprobs(content=logprobs) if answer.ready.sampling.top_logprobs is not None else None,
        finish_reason=reason(finished),
    )


def _logprobs(token: Token, ready: ReadyRequest) -> list[Any]:
    """One entry, or none where the token is no part of the answer or they were not asked for."""
    if token.logprob is None or not says(token, ready):
        return []
    return [logprob_of(token, ready.served.opened.vocabulary)]


async def _events(choices: Choices, include_usage: bool) -> AsyncGenerator[ServerSentEvent, None]:
    first = choices.ready[0]
    same = {**head(first, "chatcmpl"), "object": "chat.completion.chunk"}
    rest: dict[str, Any] = {"usage": None} if include_usage else {}

    def chunk(index: int, delta: dict[str, str], logprobs: list[Any], **extra: Any) -> ServerSentEvent:
        told = ChatLogprobs(content=logprobs).model_dump() if logprobs else None
        choice = {"index": index, "delta": delta, "logprobs": told, "finish_reason": extra.pop("reason", None)}
        return event({**same, "choices": [choice], **rest, **extra})

    for index in range(len(choices.ready)):
        yield chunk(index, {"role": "assistant", "content": ""}, [])
    results: dict[int, Finished] = {}
    async for index, token, finished in choices.tokens():
        ready = choices.ready[index]
        logprobs = _logprobs(token, ready)
        if token.text or logprobs:
            yield chunk(index, {"content": token.text}, logprobs)
        if finished is not None:
            results[index] = finished
            session = ready.session_details(finished)
            extra = {} if session is None else {"session": session.model_dump()}
            yield chunk(index, {}, [], reason=reason(finished), kv=ready.kv_details(finished).model_dump(), **extra)
    if include_usage:
        told = usage(choices.ready, [results[index] for index in sorted(results)], len(choices.ready))
        kv = first.kv_details(results[0]).model_dump()
        yield event({**same, "choices": [], "usage": told.model_dump(), "kv": kv})
