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


@router.get("/ping", summary="The process answers, as SageMaker asks for it")
async def ping() -> PingBody:
    return PingBody()


@router.get("/version", summary="Headmap's version, as vLLM tells its own")
async def version() -> VersionBody:
    return VersionBody(version=headmap.__version__)
