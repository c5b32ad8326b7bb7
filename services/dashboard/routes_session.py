"""The key: asked for once, checked against the services, held on this side."""

from __future__ import annotations

import re

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from services.dashboard.relay import OurPage
from services.dashboard.sessions import SESSION_COOKIE
from services.dashboard.state import Key, State

router = APIRouter(prefix="/dashboard/session", dependencies=[OurPage])


class KeyBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    key: SecretStr = Field(min_length=1, max_length=1024)

    @field_validator("key")
    @classmethod
    def _fits_a_header(cls, value: SecretStr) -> SecretStr:
        key = value.get_secret_value().strip()
        if re.fullmatch(r"[\x21-\x7e]+", key) is None:
            raise ValueError("must be printable ASCII without spaces")
        return SecretStr(key)


class SessionBody(BaseModel):
    """Whether this session has a key. The key itself never leaves the server."""

    has_key: bool


@router.get("")
async def show(key: Key) -> SessionBody:
    return SessionBody(has_key=key is not None)


@router.post("")
async def begin(body: KeyBody, request: Request, response: Response, state: State) -> SessionBody:
    """Raises Unauthorized where the services refuse the key, Unavailable where none can be asked."""
    await state.door.ask(body.key)
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
