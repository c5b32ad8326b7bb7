"""What the dashboard's routes depend on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import httpx
from fastapi import Depends, Request
from pydantic import SecretStr

from services.dashboard.door import Door
from services.dashboard.sessions import SESSION_COOKIE, Sessions


@dataclass(frozen=True)
class Addresses:
    """Where the services are. `api`: one URL that takes every call. `services`: the URLs whose status is shown; a
    host with several addresses has as many replicas.
    """

    api: str
    services: tuple[str, ...]


@dataclass(frozen=True)
class DashboardState:
    """Lives on `app.state.dashboard`; close it when the application ends."""

    addresses: Addresses
    client: httpx.AsyncClient
    sessions: Sessions
    door: Door

    async def close(self) -> None:
        await self.client.aclose()


def dashboard_state(request: Request) -> DashboardState:
    state: DashboardState = request.app.state.dashboard
    return state


State = Annotated[DashboardState, Depends(dashboard_state)]


def session_key(request: Request, state: State) -> SecretStr | None:
    return state.sessions.key(request.cookies.get(SESSION_COOKIE))


Key = Annotated[SecretStr | None, Depends(session_key)]
"""The API key that the user of this session gave; None where none was."""
