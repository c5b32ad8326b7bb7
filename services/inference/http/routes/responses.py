"""POST /v1/responses, in OpenAI's shape; GET and DELETE of kept responses."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import JSONResponse
from sse_starlette import ServerSentEvent

from headmap.http.auth import key_name
from headmap.http.bodies import MeasuredRoute
from services.inference.asked import AnswerForm, AskedRequest, FieldNames
from services.inference.http.answers import Answers
from services.inference.http.deps import TheResponses, TheServing
from services.inference.http.kv_choice import HEADER, choose
from services.inference.http.openai_answers import sampling_of
from services.inference.http.response_input import conversation_of, with_answer, with_instructions
from services.inference.http.response_store import StoredResponse
from services.inference.http.response_writer import ResponseWriter, begin
from services.inference.http.schemas.responses import (
    JsonObjectFormat,
    JsonSchemaTextFormat,
    ResponseBody,
    ResponsesRequest,
)
from services.inference.http.server_sent_events import OPENAPI, as_stream_error, event, stream_response
from services.inference.http.told_headers import headers, ignored_fields
from services.inference.http.tool_answers import TOOLS, Teller, settle_tools

router = APIRouter(route_class=MeasuredRoute, tags=["openai"])

_NAMES = FieldNames("input", "max_output_tokens")
ResponseId = Annotated[str, Path(max_length=512)]


@router.post(
    "/v1/responses",
    summary="Answer, and continue an earlier response",
    response_model=ResponseBody,
    responses={
        200: {"description": "The response; with `stream`, server-sent events", "content": OPENAPI},
        404: {"description": "No such model or map, or no such response any more"},
        409: {"description": "No map for the model, or one of another shape"},
        429: {"description": "Too many requests; Retry-After says when to come back"},
    },
)
async def respond(body: ResponsesRequest, request: Request, serving: TheServing, kept: TheResponses) -> Response:
    ignored, owner = ignored_fields(body, serving.settings), key_name(request)
    chosen = await choose(serving, body.model, request.headers.get(HEADER), body.kv)
    tools = settle_tools(chosen.served, body.tools or (), body.tool_choice, body.parallel_tool_calls)
    before = None
    if body.previous_response_id is not None:
        before = kept.get(owner, body.previous_response_id, "previous_response_id")
    conversation = conversation_of(
        body.input,
        None if before is None else before.conversation,
        lambda identity, field: kept.item(owner, identity, field),
        serving.settings,
    )
    identity = f"resp_{uuid.uuid4().hex}"
    session = identity if before is None else before.session
    sampling, do_sample = sampling_of(body)
    asked = AskedRequest(
        prompt=replace(with_instructions(conversation, body.instructions), tools=tools.shown),
        names=_NAMES,
        kv=chosen.kv,
        map=chosen.map,
        policy=chosen.policy,
        max_new_tokens=body.max_output_tokens,
        do_sample=do_sample,
        sampling=sampling,
        form=tools.form or _form(body),
        session=session if body.store else None,
        caller=owner,
    )
    answers = await Answers.prepare(request, serving, chosen, [asked])
    (generation,) = answers.generations
    writer = ResponseWriter(begin(body, identity, int(time.time()), answers.model))
    teller = tools.teller(generation.served.opened.vocabulary)

    def keep() -> None:
        if body.store:
            document = writer.document.model_dump()
            kept.keep(owner, StoredResponse(document, with_answer(conversation, document["output"]), session))

    told = {} if tools.told is None else {TOOLS: tools.told}
    if body.stream:
        answers.start()
        events = _events(answers, writer, teller, keep)
        return stream_response(events, serving.settings.drain_seconds, headers(generation, ignored) | told)
    (answer,) = await answers.whole(request)
    for _ in writer.feed(teller.whole(answer.tokens, answer.finished.tail)):
        pass
    for _ in writer.finish(generation, answer.finished):
        pass
    keep()
    return JSONResponse(writer.document.model_dump(), headers=headers(generation, ignored, answer.finished) | told)


@router.get(
    "/v1/responses/{response_id}",
    summary="Read a stored response",
    responses={404: {"description": "No such response"}},
)
async def read_response(response_id: ResponseId, request: Request, kept: TheResponses) -> ResponseBody:
    return ResponseBody.model_validate(kept.get(key_name(request), response_id).document)


@router.delete(
    "/v1/responses/{response_id}",
    summary="Delete a stored response",
    responses={404: {"description": "No such response"}},
)
async def drop_response(response_id: ResponseId, request: Request, kept: TheResponses) -> dict[str, Any]:
    kept.drop(key_name(request), response_id)
    return {"id": response_id, "object": "response", "deleted": True}


def _form(body: ResponsesRequest) -> AnswerForm | None:
    asked = None if body.text is None else body.text.format
    if isinstance(asked, JsonObjectFormat):
        return AnswerForm("json_schema", {"type": "object"}, "text.format")
    if isinstance(asked, JsonSchemaTextFormat):
        return AnswerForm("json_schema", asked.value, "text.format.schema")
    return None


async def _events(
    answers: Answers, writer: ResponseWriter, teller: Teller, keep: Callable[[], None]
) -> AsyncGenerator[ServerSentEvent, None]:
    (generation,) = answers.generations
    try:
        for one in writer.start():
            yield event(one, one["type"])
        async for _, token, finished in answers.tokens():
            for one in writer.feed(teller.feed(token, finished is not None)):
                yield event(one, one["type"])
            if finished is not None:
                ending = list(writer.finish(generation, finished))
                keep()
                for one in ending:
                    yield event(one, one["type"])
    except Exception as error:
        for one in writer.fail(as_stream_error(error)):
            yield event(one, one["type"])
