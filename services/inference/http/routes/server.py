"""What load balancers and tools ask a server first: GET /ping and /version."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel

import headmap

router = APIRouter(tags=["health"])


class PingBody(BaseModel):
    """Empty: the status says it all."""


class VersionBody(BaseModel):
    version: str


@router.get("/ping", summary="Say that the process answers, for SageMaker")
async def ping() -> PingBody:
    return PingBody()


@router.get("/version", summary="Headmap's version, in vLLM's form")
async def version() -> VersionBody:
    return VersionBody(version=headmap.__version__)
