"""POST /v1/completions, in OpenAI's shape: text goes on from text."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from sse_starlette import ServerSentEvent

from headmap.engine.messages import Finished, Token
from headmap.errors import EmptyPrompt
from headmap.http.bodies import MeasuredRoute
from services.inference.asked import FieldNames
from services.inference.bridge import Generation
from services.inference.http.answers import Answers
from services.inference.http.cache_details import kv_details
from services.inference.http.deps import TheServing
from services.inference.http.kv_choice import HEADER, choose
from services.inference.http.openai_answers import asked_of, ended, head, logprob_of, reason, usage, usage_so_far
from services.inference.http.schemas.openai_completions import (
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    CompletionRequest,
)
from services.inference.http.server_sent_events import OPENAPI, event, stream_response
from services.inference.http.told_headers import headers

router = APIRouter(route_class=MeasuredRoute, tags=["openai"])

_MAX_TOKENS = 16
_NAMES = FieldNames("prompt", "max_tokens")


@router.post(
    "/v1/completions",
    summary="Continue a text, without the chat template",
    response_model=Completion,
    responses={
        200: {"description": "The text; with `stream`, server-sent events that end with [DONE]", "content": OPENAPI},
        404: {"description": "No such model or map"},
        409: {"description": "No map for the model, or one of another shape"},
        429: {"description": "Too many requests; Retry-After says when to come back"},
    },
)
async def completions(body: CompletionRequest, request: Request, serving: TheServing) -> Response:
    chosen = await choose(serving, body.model, request.headers.get(HEADER), body.kv)
    prompts = [one if isinstance(one, str) else tuple(one) for one in body.prompts]
    if not all(prompts):
        raise EmptyPrompt("prompt: is empty", param="prompt")
    new_tokens = _MAX_TOKENS if body.max_tokens is None else body.max_tokens
    asked = [asked_of(body, chosen, prompt, _NAMES, new_tokens, body.logprobs) for prompt in prompts]
    if body.echo:
        asked = [replace(one, prompt_logprobs=body.logprobs) for one in asked]
    n = body.n or 1
    answers = await Answers.prepare(request, serving, chosen, asked, n)
    first = answers.generations[0]
    join = chosen.served.opened.vocabulary.join
    texts = [(one if isinstance(one, str) else join(one)) if body.echo else "" for one in prompts]
    before = [text for text in texts for _ in range(n)]
    if body.stream:
        answers.start()
        events = _events(answers, before, n, body)
        return stream_response(ended(events), serving.settings.drain_seconds, headers(first, []))
    whole = await answers.whole(request)
    finished = [answer.finished for answer in whole]
    completion = Completion(
        **head(answers, "cmpl"),
        choices=[
            CompletionChoice(
                index=number,
                text=before[number] + answer.finished.generated_text,
                logprobs=_logprobs([*answer.finished.prompt_logprobs, *answer.tokens], answer.generation, 0),
                finish_reason=reason(answer.finished),
                kv=kv_details(answer.generation, answer.finished),
            )
            for number, answer in enumerate(whole)
        ],
        usage=usage(answers.generations, finished, n),
    )
    return JSONResponse(completion.model_dump(), headers=headers(first, [], finished[0]))


def _logprobs(tokens: Iterable[Token], generation: Generation, offset: int) -> CompletionLogprobs | None:
    """Log probabilities of tokens, or None. The first token begins at character `offset` of the choice's text.

    An end token is included only with the prompt's tokens: callers who ask for a prompt's likelihood need every token.
    """
    request = generation.request
    if request.sampling.top_logprobs is None:
        return None
    vocabulary = generation.served.opened.vocabulary
    told = CompletionLogprobs(tokens=[], token_logprobs=[], top_logprobs=[], text_offset=[])
    for token in tokens:
        if request.prompt_logprobs is None and (token.logprob is None or generation.ends(token.id)):
            continue
        one = logprob_of(token, vocabulary)
        told.tokens.append(one.token)
        told.token_logprobs.append(None if token.logprob is None else one.logprob)
        top = {other.token: other.logprob for other in one.top_logprobs}
        told.top_logprobs.append(None if token.logprob is None else top)
        told.text_offset.append(offset)
        offset += len(one.token)
    return told


async def _events(
    answers: Answers, before: Sequence[str], n: int, body: CompletionRequest
) -> AsyncGenerator[ServerSentEvent, None]:
    """An echoed prompt with log probabilities comes with the last token, as the engine has them only in the result."""
    same = {**head(answers, "cmpl"), "object": "text_completion"}
    offsets = [0] * len(before)
    new_tokens = 0
    results: dict[int, Finished] = {}
    with_prompt = body.echo and body.logprobs is not None
    held: list[list[Token]] = [[] for _ in before]

    def chunk(index: int, text: str, **extra: Any) -> ServerSentEvent:
        choice = {"index": index, "text": text, "logprobs": None, "finish_reason": None, **extra}
        rest: dict[str, Any] = {"usage": None} if body.include_usage else {}
        if body.usage_on_every_chunk:
            rest = {"usage": usage_so_far(answers.generations, new_tokens, n).model_dump()}
        return event({**same, "choices": [choice], **rest})

    def told(index: int, text: str, tokens: Sequence[Token]) -> ServerSentEvent | None:
        logprobs = _logprobs(tokens, answers.generations[index], offsets[index])
        if logprobs is not None:
            offsets[index] += sum(map(len, logprobs.tokens))
        if not text and not (logprobs and logprobs.tokens):
            return None
        return chunk(index, text, logprobs=None if logprobs is None else logprobs.model_dump())

    if not with_prompt:
        for index, prompt in enumerate(before):
            if prompt:
                yield chunk(index, prompt)
    async for index, token, finished in answers.tokens():
        new_tokens += 1
        if with_prompt:
            held[index].append(token)
            if finished is None:
                continue
            one = told(index, before[index], finished.prompt_logprobs)
            if one is not None:
                yield one
        for late in held[index] or [token]:
            one = told(index, late.text, [late] if late.logprob is not None else [])
            if one is not None:
                yield one
        if finished is not None:
            results[index] = finished
            kv = kv_details(answers.generations[index], finished).model_dump()
            yield chunk(index, "", finish_reason=reason(finished), kv=kv)
    if body.include_usage:
        told_usage = usage(answers.generations, [results[index] for index in sorted(results)], n)
        yield event({**same, "choices": [], "usage": told_usage.model_dump()})
