"""POST /generate and /generate_stream, in text-generation-inference's shape."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from sse_starlette import ServerSentEvent

from services.inference.deps import InferenceState, State
from services.inference.prompts import conversation_of_inputs
from services.inference.running import Run
from services.inference.schemas import (
    GenerateRequest,
    GenerateResponse,
    Parameters,
    StreamEvent,
    StreamToken,
)
from services.inference.serving import SamplingAsk
from services.inference.streams import OPENAPI, as_stream_error, event, stream_response

router = APIRouter(tags=["generate"])

_ERRORS: dict[int | str, dict[str, Any]] = {
    404: {"description": "No such model or map"},
    409: {"description": "No map for the model, or one of another shape"},
    413: {"description": "A picture is too large"},
    429: {"description": "Too many requests; Retry-After says when to come back"},
}


@router.post(
    "/generate",
    summary="Answer a question about pictures",
    response_model=GenerateResponse,
    responses={
        **_ERRORS,
        200: {
            "description": "The answer; with `stream`, server-sent events: one for each token, the last with the text",
            "content": OPENAPI,
        },
    },
)
async def generate(body: GenerateRequest, request: Request, state: State) -> Response:
    run = await _prepare(body, request, state)
    if body.stream:
        return _stream(run, state)
    finished = await run.whole(request)
    info = run.ready.served.info
    answer = GenerateResponse(
        generated_text=finished.generated_text,
        details=run.ready.details(finished),
        model=info.name,
        revision=info.revision,
    )
    return JSONResponse(
        answer.model_dump(),
        headers={
            "x-prompt-tokens": str(run.ready.prompt.prompt_tokens),
            "x-generated-tokens": str(len(finished.token_ids)),
            "x-queue-time": str(round(finished.queue_ms)),
            "x-time-per-token": str(round(finished.decode_ms_per_token)),
        },
    )


@router.post(
    "/generate_stream",
    summary="The same, always as server-sent events",
    response_class=Response,
    responses={**_ERRORS, 200: {"description": "Server-sent events", "content": OPENAPI}},
)
async def generate_stream(body: GenerateRequest, request: Request, state: State) -> Response:
    return _stream(await _prepare(body, request, state), state)


async def _prepare(body: GenerateRequest, request: Request, state: InferenceState) -> Run:
    served = state.serving.model(body.model)
    conversation = conversation_of_inputs(body.inputs, body.images, state.serving.settings)
    parameters = body.settled
    return await Run.prepare(request, state, served, conversation, parameters.kv, _sampling(parameters))


def _sampling(parameters: Parameters) -> SamplingAsk:
    return SamplingAsk(
        max_new_tokens=parameters.max_new_tokens,
        do_sample=parameters.do_sample,
        temperature=parameters.temperature,
        top_p=parameters.top_p,
        top_k=parameters.top_k,
        repetition_penalty=parameters.repetition_penalty,
        seed=parameters.seed,
        stop=parameters.stop or (),
        ignore_eos=parameters.ignore_eos,
    )


def _stream(run: Run, state: InferenceState) -> Response:
    run.start()
    return stream_response(_events(run), state.serving.settings.drain_seconds)


async def _events(run: Run) -> AsyncGenerator[ServerSentEvent, None]:
    info = run.ready.served.info
    index = 0
    try:
        async for token, finished in run.tokens():
            index += 1
            one = StreamEvent(index=index, token=StreamToken(id=token.id, text=token.text))
            if finished is not None:
                one.token.special = finished.finish_reason == "eos_token"
                one.generated_text = finished.generated_text
                one.details = run.ready.details(finished)
                one.model, one.revision = info.name, info.revision
            yield event(one.model_dump())
    except Exception as error:
        problem = as_stream_error(error)
        yield event({**problem.problem(), "error": problem.detail, "error_type": problem.code}, "error")
