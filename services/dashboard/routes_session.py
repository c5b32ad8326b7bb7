"""The key: the browser sends it once, the services check it, and this process keeps it."""

from __future__ import annotations

import httpx
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from headmap.errors import Unauthorized, Unavailable
from services.dashboard.relay import OurPage
from services.dashboard.sessions import SESSION_COOKIE
from services.dashboard.state import Addresses, Key, State, bearer

router = APIRouter(prefix="/dashboard/session", dependencies=[OurPage])


class KeyBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    key: SecretStr = Field(min_length=1, max_length=1024)


class SessionBody(BaseModel):
    """Whether this session has a key. The key itself never leaves the server."""

    has_key: bool


@router.get("")
async def show(key: Key) -> SessionBody:
    return SessionBody(has_key=key is not None)


@router.post("")
async def begin(body: KeyBody, request: Request, response: Response, state: State) -> SessionBody:
    """Raises Unauthorized if the services refuse the key, and Unavailable if none of them answers."""
    await _check(state.client, state.addresses, body.key)
    state.sessions.close(request.cookies.get(SESSION_COOKIE))
    response.set_cookie(
        SESSION_COOKIE,
        state.sessions.open(body.key),
        httponly=True,
        samesite="strict",
        secure=request.headers.get("x-forwarded-proto", request.url.scheme) == "https",
    )
    return SessionBody(has_key=True)


@router.delete("")
async def end(request: Request, response: Response, state: State) -> SessionBody:
    state.sessions.close(request.cookies.get(SESSION_COOKIE))
    response.delete_cookie(SESSION_COOKIE, httponly=True, samesite="strict")
    return SessionBody(has_key=False)


async def _check(client: httpx.AsyncClient, addresses: Addresses, key: SecretStr) -> None:
    """Both services know the keys, so if one is away, the other is asked."""
    for path in ("/maps?limit=1", "/v1/models"):
        try:
            answer = await client.get(f"{addresses.api}{path}", headers=bearer(key), timeout=10)
        except httpx.HTTPError:
            continue
        if answer.status_code == 401:
            raise Unauthorized("the server does not know this key; check it for missing characters")
        if answer.is_success:
            return
    raise Unavailable("the key cannot be checked now: no service answers")
