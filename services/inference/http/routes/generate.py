"""POST /generate, its other name /, and /generate_stream, in text-generation-inference's shape."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from sse_starlette import ServerSentEvent

from headmap.engine.messages import Finished, Token
from headmap.errors import InvalidParameter
from headmap.http.bodies import MeasuredRoute
from headmap.http.problems import generation_problem
from services.inference.asked import AnswerForm, AskedRequest, FieldNames, given
from services.inference.bridge import Generation
from services.inference.http.answers import Answers
from services.inference.http.cache_details import kept_tokens, kv_details
from services.inference.http.deps import TheServing
from services.inference.http.kv_choice import HEADER, choose
from services.inference.http.openai_answers import json_object_of
from services.inference.http.schemas.tgi import (
    Details,
    GenerateRequest,
    GenerateResponse,
    JsonSchemaGrammar,
    Parameters,
    RegexGrammar,
    StreamEvent,
    Timings,
    TokenBody,
)
from services.inference.http.server_sent_events import OPENAPI, as_stream_error, event, stream_response
from services.inference.http.told_headers import headers
from services.inference.intake.conversation import conversation_of_inputs
from services.inference.serving import Serving

router = APIRouter(route_class=MeasuredRoute, tags=["generate"])

_MAX_NEW_TOKENS = 100
"""As text-generation-inference documents it."""

_NAMES = FieldNames("inputs", "parameters.max_new_tokens")

_ERRORS: dict[int | str, dict[str, Any]] = {
    404: {"description": "No such model or map"},
    409: {"description": "No map for the model, or one of another shape"},
    413: {"description": "A picture is too large"},
    429: {"description": "Too many requests; Retry-After says when to come back"},
}


_ANSWER: dict[int | str, dict[str, Any]] = {
    **_ERRORS,
    200: {
        "description": "The answer; with `stream`, server-sent events: one for each token, the last with the text",
        "content": OPENAPI,
    },
}


@router.post(
    "/",
    summary="Answer as /generate does, in a list of one unless streamed",
    response_model=list[GenerateResponse],
    responses=_ANSWER,
)
async def root(body: GenerateRequest, request: Request, serving: TheServing) -> Response:
    if body.stream:
        return await generate_stream(body, request, serving)
    response, told = await _whole(body, request, serving)
    return JSONResponse([response.model_dump()], headers=told)


@router.post(
    "/generate", summary="Answer a question about pictures", response_model=GenerateResponse, responses=_ANSWER
)
async def generate(body: GenerateRequest, request: Request, serving: TheServing) -> Response:
    if body.stream:
        return await generate_stream(body, request, serving)
    response, told = await _whole(body, request, serving)
    return JSONResponse(response.model_dump(), headers=told)


async def _whole(body: GenerateRequest, request: Request, serving: Serving) -> tuple[GenerateResponse, dict[str, str]]:
    """The answer and its headers."""
    arrived = time.perf_counter()
    answers = await _prepare(body, request, serving, tells_tokens=body.settled.details)
    prepared = time.perf_counter()
    (answer,) = await answers.whole(request)
    generation, finished = answer.generation, answer.finished
    told = _tokens(body.settled, answer.tokens, generation) if body.settled.details else {}
    vocabulary = generation.served.opened.vocabulary
    prefill = [_token(one, vocabulary.text(one.id), generation) for one in finished.prompt_logprobs]
    response = GenerateResponse(
        generated_text=_before(body) + finished.generated_text,
        details=_details(generation, finished, prefill=prefill, **told),
        model=answers.model,
        revision=generation.served.info.revision,
    )
    timings = _timings(finished, prepared - arrived, time.perf_counter() - arrived)
    return response, _headers(body, generation, finished) | timings


def _before(body: GenerateRequest) -> str:
    return body.inputs if body.settled.return_full_text else ""


@router.post(
    "/generate_stream",
    summary="Answer as /generate does, always as server-sent events",
    response_class=Response,
    responses={**_ERRORS, 200: {"description": "Server-sent events", "content": OPENAPI}},
)
async def generate_stream(body: GenerateRequest, request: Request, serving: TheServing) -> Response:
    if body.settled.decoder_input_details:
        field = "parameters.decoder_input_details"
        raise InvalidParameter(f"{field}: a stream does not return the prompt's tokens", param=field)
    answers = await _prepare(body, request, serving, tells_tokens=True)
    answers.start()
    (generation,) = answers.generations
    return stream_response(_events(answers, body), serving.settings.drain_seconds, _headers(body, generation))


async def _prepare(body: GenerateRequest, request: Request, serving: Serving, *, tells_tokens: bool) -> Answers:
    """Only answers that tell each token tell its log probability, too."""
    chosen = await choose(serving, body.model, request.headers.get(HEADER), body.settled.kv, any_name=True)
    conversation = conversation_of_inputs(body.inputs, body.images, serving.settings)
    parameters = body.settled
    watched = None if parameters.kept is None else (parameters.kept.layer, parameters.kept.kv_head)
    asked = AskedRequest(
        prompt=conversation,
        names=_NAMES,
        kv=chosen.kv,
        map=chosen.map,
        policy=chosen.policy,
        max_new_tokens=_new_tokens(parameters, serving),
        do_sample=parameters.do_sample,
        sampling=given(parameters),
        stop=parameters.stop or (),
        ignore_eos=parameters.ignore_eos,
        top_logprobs=(parameters.top_n_tokens or 0) if tells_tokens else None,
        prompt_logprobs=0 if parameters.decoder_input_details and parameters.details else None,
        form=_form(parameters),
        watched=watched,
    )
    return await Answers.prepare(request, serving, chosen, [asked])


def _new_tokens(parameters: Parameters, serving: Serving) -> int:
    if parameters.max_new_tokens is not None:
        return parameters.max_new_tokens
    return serving.settings.default_max_new_tokens or _MAX_NEW_TOKENS


def _form(parameters: Parameters) -> AnswerForm | None:
    grammar = parameters.grammar
    if grammar is None:
        return None
    if isinstance(grammar, RegexGrammar):
        return AnswerForm("regex", grammar.value, "parameters.grammar")
    schema = grammar.value.value if isinstance(grammar, JsonSchemaGrammar) else grammar.value
    if isinstance(schema, str):
        schema = json_object_of(schema, "parameters.grammar.value")
    return AnswerForm("json_schema", schema, "parameters.grammar")


def _tokens(parameters: Parameters, tokens: tuple[Token, ...], generation: Generation) -> dict[str, Any]:
    vocabulary = generation.served.opened.vocabulary
    told: dict[str, Any] = {"tokens": [_token(one, vocabulary.text(one.id), generation) for one in tokens]}
    if parameters.top_n_tokens:
        told["top_tokens"] = [_top(one, generation) for one in tokens]
    return told


def _token(token: Token, text: str, generation: Generation) -> TokenBody:
    special = token.id in generation.served.opened.vocabulary.controls
    return TokenBody(id=token.id, text=text, logprob=token.logprob, special=special)


def _top(token: Token, generation: Generation) -> list[TokenBody]:
    vocabulary = generation.served.opened.vocabulary
    return [
        TokenBody(id=other, text=vocabulary.text(other), logprob=logprob, special=other in vocabulary.controls)
        for other, logprob in token.top
    ]


def _details(generation: Generation, finished: Finished, **tokens: Any) -> Details:
    prompt = generation.request.prompt
    return Details(
        finish_reason=finished.finish_reason,
        generated_tokens=len(finished.token_ids),
        prompt_tokens=prompt.prompt_tokens,
        image_tokens=prompt.image_tokens,
        seed=generation.request.sampling.seed,
        kv=kv_details(generation, finished),
        kept=kept_tokens(generation, finished),
        timings=Timings(
            queue_ms=round(finished.queue_ms, 3),
            prefill_ms=round(finished.prefill_ms, 3),
            decode_ms_per_token=round(finished.decode_ms_per_token, 3),
        ),
        **tokens,
    )


def _headers(body: GenerateRequest, generation: Generation, finished: Finished | None = None) -> dict[str, str]:
    return {
        **headers(generation, [], finished),
        "x-compute-type": generation.served.opened.device,
        "x-compute-characters": str(len(body.inputs)),
        "x-prompt-tokens": str(generation.request.prompt.prompt_tokens),
    }


def _timings(finished: Finished, preparing: float, total: float) -> dict[str, str]:
    """As text-generation-inference sends them: milliseconds, and the whole in seconds beside it."""
    inference = finished.prefill_ms + finished.decode_ms_per_token * max(len(finished.token_ids) - 1, 0)
    milliseconds = {
        "x-total-time": total * 1e3,
        "x-validation-time": preparing * 1e3,
        "x-queue-time": finished.queue_ms,
        "x-inference-time": inference,
        "x-time-per-token": finished.decode_ms_per_token,
    }
    return {
        "x-compute-time": f"{total:.6f}",
        "x-generated-tokens": str(len(finished.token_ids)),
        **{name: str(round(value)) for name, value in milliseconds.items()},
    }


async def _events(answers: Answers, body: GenerateRequest) -> AsyncGenerator[ServerSentEvent, None]:
    (generation,) = answers.generations
    info, top = generation.served.info, bool(body.settled.top_n_tokens)
    count = 0
    try:
        async for _, token, finished in answers.tokens():
            count += 1
            one = StreamEvent(index=count, token=_token(token, token.text, generation))
            one.top_tokens = _top(token, generation) if top else None
            if finished is not None:
                text = _before(body) + finished.generated_text
                one.generated_text, one.details = text, _details(generation, finished)
                one.model, one.revision = answers.model, info.revision
            yield event(one.model_dump())
    except Exception as error:
        yield event(generation_problem(as_stream_error(error).problem()), "error")
