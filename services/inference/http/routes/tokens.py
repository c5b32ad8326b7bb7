"""POST /tokenize and /detokenize: between a prompt and its tokens."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from headmap.errors import InvalidParameter
from headmap.http.bodies import MeasuredRoute
from headmap.http.receiving import request_bytes
from services.inference.asked import AskedRequest, FieldNames
from services.inference.http.answers import unless_gone
from services.inference.http.chat_messages import conversation_of
from services.inference.http.deps import TheServing
from services.inference.http.kv_choice import choose
from services.inference.http.schemas.tokens import (
    DetokenizeRequest,
    DetokenizeResponse,
    PlacedToken,
    TokenizeRequest,
    TokenizeResponse,
)
from services.inference.http.told_headers import ignored_fields
from services.inference.http.tool_answers import settle_tools

router = APIRouter(route_class=MeasuredRoute, tags=["tokens"])


@router.post(
    "/tokenize", summary="The tokens of a text or a conversation", response_model=TokenizeResponse | list[PlacedToken]
)
async def tokenize(body: TokenizeRequest, request: Request, serving: TheServing) -> Response:
    forms = [name for name in ("prompt", "messages", "inputs") if getattr(body, name) is not None]
    if len(forms) != 1:
        raise InvalidParameter(f"prompt: give exactly one of prompt, messages and inputs, got {forms}", param="prompt")
    served = (await choose(serving, body.model, None, None, any_name=body.inputs is not None)).served
    if body.messages is not None:
        ignored_fields(body, serving.settings)
        tools = settle_tools(served, body.tools or (), None)
        prompt = conversation_of(
            body.messages, serving.settings, tools=tools.shown, template_kwargs=body.chat_template_kwargs
        )
        asked = AskedRequest(prompt=prompt, names=FieldNames("messages", "max_tokens"))
    else:
        text = body.inputs if body.prompt is None else body.prompt
        asked = AskedRequest(prompt=text or "", names=FieldNames(forms[0], "max_tokens"))
    held = request_bytes(request.scope)
    tokens = [] if asked.prompt == "" else await unless_gone(request, serving.tokens(served, asked, held))
    vocabulary = served.opened.vocabulary
    texts = [vocabulary.text(token) for token in tokens]
    if body.inputs is not None:
        placed, start = [], 0
        for token, told in zip(tokens, texts, strict=True):
            length = 0 if token in vocabulary.controls else len(told)
            placed.append(PlacedToken(id=token, text=told, start=start, stop=start + length).model_dump())
            start += length
        return JSONResponse(placed)
    answer = TokenizeResponse(
        count=len(tokens),
        max_model_len=served.info.max_positions,
        tokens=tokens,
        token_strs=texts if body.return_token_strs else None,
    )
    return JSONResponse(answer.model_dump())


@router.post("/detokenize", summary="The text of tokens", responses={404: {"description": "No such model"}})
async def detokenize(body: DetokenizeRequest, serving: TheServing) -> DetokenizeResponse:
    vocabulary = (await choose(serving, body.model, None, None)).served.opened.vocabulary
    for place, token in enumerate(body.tokens):
        if not 0 <= token < len(vocabulary.pieces):
            raise InvalidParameter(
                f"tokens.{place}: {token} is not a token of the model, which has {len(vocabulary.pieces)} tokens",
                param=f"tokens.{place}",
            )
    return DetokenizeResponse(prompt=vocabulary.join(body.tokens))
