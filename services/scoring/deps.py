"""The dependencies of routes, as type aliases, and the state of the scoring part of an application."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import BoundedSemaphore
from typing import Annotated

from fastapi import Depends, Header, Path, Query, Request

from headmap.jobs.broker import Broker
from headmap.registry.session import Database
from headmap.settings import Settings
from services.scoring.schemas import AliasName, DatasetName, ModelName, Revision

UPLOADS_AT_ONCE = 2


@dataclass(frozen=True)
class ScoringState:
    """Lives on `app.state.scoring`; close it when the application ends."""

    settings: Settings
    database: Database
    broker: Broker
    uploads: BoundedSemaphore = field(default_factory=lambda: BoundedSemaphore(UPLOADS_AT_ONCE))
    """Held by each upload: they take disk and a core."""

    def close(self) -> None:
        self.database.close()


def scoring_state(request: Request) -> ScoringState:
    state: ScoringState = request.app.state.scoring
    return state


State = Annotated[ScoringState, Depends(scoring_state)]

JobId = Annotated[str, Path(description="a job's id")]
MapId = Annotated[str, Path(description="a map's id")]
Layer = Annotated[int, Path(ge=0, le=99_999, description="a layer, from 0")]
Head = Annotated[int, Path(ge=0, le=99_999, description="a query head of the layer, from 0")]
OtherMapId = Annotated[str, Path(description="the map to compare with")]
DatasetPath = Annotated[DatasetName, Path(description="a dataset's name")]
Alias = Annotated[AliasName, Path(description="an alias, such as default or stable")]

Limit = Annotated[int, Query(ge=1, le=200)]
Cursor = Annotated[str | None, Query(max_length=256, description="next_cursor of the previous page")]
ModelFilter = Annotated[ModelName | None, Query(description="list only this model")]
ModelQuery = Annotated[ModelName, Query()]
RevisionQuery = Annotated[Revision | None, Query()]
AliasQuery = Annotated[AliasName | None, Query()]

Budget = Annotated[int, Query(ge=1, le=1_000_000, description="tokens kept per KV head, on average")]
PromptTokens = Annotated[int, Query(ge=1, le=10_000_000)]
Window = Annotated[
    int | None,
    Query(ge=0, le=1_000_000, description="last tokens of the prompt, always kept; min(32, budget // 2) by default"),
]
Uniform = Annotated[float, Query(ge=0, le=1, allow_inf_nan=False)]

IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="repeated requests with this key get the same job",
    ),
]
