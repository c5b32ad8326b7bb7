"""POST /v1/completions, in OpenAI's shape: text goes on from text."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from sse_starlette import ServerSentEvent

from headmap.engine.messages import Finished, Token
from headmap.errors import EmptyPrompt, InvalidParameter
from headmap.http.bodies import LargeBodyRoute
from services.inference.bridge import Generation
from services.inference.http.answers import Answers
from services.inference.http.cache_details import kv_details
from services.inference.http.deps import TheServing
from services.inference.http.openai_answers import asked_of, ended, head, logprob_of, reason, says, usage
from services.inference.http.schemas.openai_completions import (
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    CompletionRequest,
)
from services.inference.http.server_sent_events import OPENAPI, event, stream_response

router = APIRouter(route_class=LargeBodyRoute, tags=["openai"])

_MAX_TOKENS = 16


@router.post(
    "/v1/completions",
    summary="Go on from a text, without the chat template",
    response_model=Completion,
    responses={
        200: {"description": "The text; with `stream`, server-sent events that end with [DONE]", "content": OPENAPI},
        404: {"description": "No such model or map"},
        409: {"description": "No map for the model, or one of another shape"},
        429: {"description": "Too many requests; Retry-After says when to come back"},
    },
)
async def completions(body: CompletionRequest, request: Request, serving: TheServing) -> Response:
    if body.echo and body.logprobs is not None:
        raise InvalidParameter("echo: log probabilities of the prompt are not served, got logprobs too", param="echo")
    if any(not prompt for prompt in body.prompts):
        raise EmptyPrompt("prompt: is empty", param="prompt")
    new_tokens = _MAX_TOKENS if body.max_tokens is None else body.max_tokens
    asked = [asked_of(body, prompt, new_tokens, body.logprobs) for prompt in body.prompts]
    n = body.n or 1
    answers = await Answers.prepare(request, serving, serving.model(body.model), asked, n)
    before = [prompt if body.echo else "" for prompt in body.prompts for _ in range(n)]
    if body.stream:
        answers.start()
        events = _events(answers, before, n, body.include_usage)
        return stream_response(ended(events), serving.settings.drain_seconds)
    whole = await answers.whole(request)
    finished = [answer.finished for answer in whole]
    completion = Completion(
        **head(answers.generations[0], "cmpl"),
        choices=[
            CompletionChoice(
                index=number,
                text=before[number] + answer.finished.generated_text,
                logprobs=_logprobs(answer.tokens, answer.generation, 0),
                finish_reason=reason(answer.finished),
                kv=kv_details(answer.generation, answer.finished),
            )
            for number, answer in enumerate(whole)
        ],
        usage=usage(answers.generations, finished, n),
    )
    return JSONResponse(completion.model_dump())


def _logprobs(tokens: Sequence[Token], generation: Generation, offset: int) -> CompletionLogprobs | None:
    """Of tokens whose first begins at character `offset` of the answer; None where they were not asked for."""
    if generation.request.sampling.top_logprobs is None:
        return None
    told = CompletionLogprobs(tokens=[], token_logprobs=[], top_logprobs=[], text_offset=[])
    for token in tokens:
        if says(token, generation) and token.logprob is not None:
            one = logprob_of(token, generation.served.opened.vocabulary)
            told.tokens.append(one.token)
            told.token_logprobs.append(one.logprob)
            told.top_logprobs.append({other.token: other.logprob for other in one.top_logprobs})
            told.text_offset.append(offset)
            offset += len(one.token)
    return told


async def _events(
    answers: Answers, before: Sequence[str], n: int, include_usage: bool
) -> AsyncGenerator[ServerSentEvent, None]:
    same = {**head(answers.generations[0], "cmpl"), "object": "text_completion"}
    rest: dict[str, Any] = {"usage": None} if include_usage else {}
    offsets = [0] * len(before)
    results: dict[int, Finished] = {}

    def chunk(index: int, text: str, **extra: Any) -> ServerSentEvent:
        choice = {"index": index, "text": text, "logprobs": None, "finish_reason": None, **extra}
        return event({**same, "choices": [choice], **rest})

    for index, prompt in enumerate(before):
        if prompt:
            yield chunk(index, prompt)
    async for index, token, finished in answers.tokens():
        generation = answers.generations[index]
        logprobs = _logprobs([token], generation, offsets[index])
        told = logprobs is not None and bool(logprobs.tokens)
        if logprobs is not None:
            offsets[index] += sum(map(len, logprobs.tokens))
        if token.text or told:
            yield chunk(index, token.text, logprobs=logprobs.model_dump() if logprobs is not None else None)
        if finished is not None:
            results[index] = finished
            yield chunk(index, "", finish_reason=reason(finished), kv=kv_details(generation, finished).model_dump())
    if include_usage:
        told_usage = usage(answers.generations, [results[index] for index in sorted(results)], n)
        yield event({**same, "choices": [], "usage": told_usage.model_dump()})
