"""GET /ping and /version, which load balancers and tools call first."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel

import headmap

router = APIRouter(tags=["health"])


class PingBody(BaseModel):
    """An empty body; the status is the answer."""


class VersionBody(BaseModel):
    version: str


@router.get("/ping", summary="Say that the process answers, for SageMaker")
async def ping() -> PingBody:
    return PingBody()


@router.get("/version", summary="Headmap's version, in vLLM's form")
async def version() -> VersionBody:
    return VersionBody(version=headmap.__version__)
