"""The key: the browser sends it once, the services check it, and a cookie that only we can read keeps it."""

from __future__ import annotations

import re

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from headmap.errors import InvalidParameter
from services.dashboard.relay import OurPage
from services.dashboard.sessions import SESSION_COOKIE
from services.dashboard.state import Key, State

router = APIRouter(prefix="/dashboard/session", dependencies=[OurPage])


class KeyBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    key: SecretStr = Field(min_length=1, max_length=1024)


class SessionBody(BaseModel):
    """Whether this session has a key. The pages never see the key itself."""

    has_key: bool


@router.get("")
async def show(key: Key) -> SessionBody:
    return SessionBody(has_key=key is not None)


@router.post("")
async def begin(body: KeyBody, request: Request, response: Response, state: State) -> SessionBody:
    """Raises InvalidParameter, and as `Door.ask`."""
    key = _sendable(body.key)
    await state.door.ask(key)
    response.set_cookie(
        SESSION_COOKIE,
        state.sessions.open(key),
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",  # or as a trusted proxy says
    )
    return SessionBody(has_key=True)


@router.delete("")
async def end(response: Response) -> SessionBody:
    response.delete_cookie(SESSION_COOKIE, httponly=True, samesite="strict")
    return SessionBody(has_key=False)


def _sendable(key: SecretStr) -> SecretStr:
    """`key` without blanks around it. Raises InvalidParameter, which keeps it to itself, where no header takes it."""
    text = key.get_secret_value().strip()
    if re.fullmatch(r"[\x21-\x7e]+", text) is None:
        raise InvalidParameter("key: must be printable ASCII without spaces", param="key")
    return SecretStr(text)
