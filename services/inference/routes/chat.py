"""POST /v1/chat/completions, in OpenAI's shape."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from sse_starlette import ServerSentEvent

from headmap.errors import EmptyPrompt
from headmap.settings import Settings
from services.inference.deps import State
from services.inference.events import Finished
from services.inference.images import ImageSource
from services.inference.openai_schemas import (
    AnswerMessage,
    ChatCompletion,
    ChatRequest,
    Choice,
    ImagePart,
    Usage,
)
from services.inference.prompts import Conversation, Message, check_count
from services.inference.running import Run
from services.inference.serving import ReadyRequest, SamplingAsk
from services.inference.streams import OPENAPI, as_stream_error, event, raw_event, stream_response

router = APIRouter(tags=["openai"])


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
    served = state.serving.model(body.model)
    conversation = _conversation(body, state.serving.settings)
    run = await Run.prepare(request, state, served, conversation, body.kv, _sampling(body))
    if body.stream:
        run.start()
        include_usage = body.stream_options is not None and bool(body.stream_options.include_usage)
        return stream_response(_events(run, include_usage), state.serving.settings.drain_seconds)
    finished = await run.whole(request)
    answer = ChatCompletion(
        **_head(run.ready),
        choices=[Choice(message=AnswerMessage(content=finished.generated_text), finish_reason=_reason(finished))],
        usage=_usage(run.ready, finished),
        kv=run.ready.details(finished).kv,
    )
    return JSONResponse(answer.model_dump())


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


def _sampling(body: ChatRequest) -> SamplingAsk:
    greedy = body.temperature == 0
    return SamplingAsk(
        max_new_tokens=body.new_tokens,
        do_sample=False if greedy else None,
        temperature=None if greedy else body.temperature,
        top_p=body.top_p,
        top_k=None if body.top_k is None else max(body.top_k, 0),
        repetition_penalty=body.repetition_penalty,
        seed=body.seed,
        stop=body.stops,
        ignore_eos=body.ignore_eos,
    )


async def _events(run: Run, include_usage: bool) -> AsyncGenerator[ServerSentEvent, None]:
    head = {**_head(run.ready), "object": "chat.completion.chunk"}
    rest: dict[str, Any] = {"usage": None} if include_usage else {}

    def chunk(delta: dict[str, str], reason: str | None = None, **extra: Any) -> ServerSentEvent:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return event({**head, "choices": [choice], **rest, **extra})

    try:
        yield chunk({"role": "assistant", "content": ""})
        async for token, finished in run.tokens():
            if token.text:
                yield chunk({"content": token.text})
            if finished is not None:
                kv = run.ready.details(finished).kv.model_dump()
                yield chunk({}, _reason(finished), kv=kv)
                if include_usage:
                    usage = _usage(run.ready, finished).model_dump()
                    yield event({**head, "choices": [], "usage": usage, "kv": kv})
    except Exception as error:
        problem = as_stream_error(error)
        kind = "server_error" if problem.status >= 500 else "invalid_request_error"
        yield event(
            {"error": {"message": problem.detail, "type": kind, "param": problem.param, "code": problem.code}}, "error"
        )
    yield raw_event("[DONE]")


def _head(ready: ReadyRequest) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{ready.engine_request.id}",
        "created": int(time.time()),
        "model": ready.served.info.name,
        "system_fingerprint": ready.served.info.revision,
    }


def _usage(ready: ReadyRequest, finished: Finished) -> Usage:
    prompt, new = ready.prompt.prompt_tokens, len(finished.token_ids)
    return Usage(prompt_tokens=prompt, completion_tokens=new, total_tokens=prompt + new)


def _reason(finished: Finished) -> Literal["stop", "length"]:
    return "length" if finished.finish_reason == "length" else "stop"
