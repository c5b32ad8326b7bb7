"""The dependencies of routes, as type aliases, and the state of the scoring part of an application."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated

from anyio import CapacityLimiter
from fastapi import Depends, Header, Path, Query, Request
from sqlalchemy.orm import Session

from headmap.blobs.location import open_blobs
from headmap.blobs.store import BlobStore
from headmap.http.auth import check_scope, key_name
from headmap.jobs.broker import Broker
from headmap.keys import Scope
from headmap.kvcache.select import DEFAULT_SELECTOR, SELECTORS
from headmap.map_kinds import MapKind
from headmap.registry.aliases import Promote
from headmap.registry.job_limits import OpenLimits
from headmap.registry.map_file import ModelName, Revision, ShortName, Tag
from headmap.registry.map_search import MapOrder
from headmap.registry.session import Database
from headmap.settings import Settings
from services.scoring.following import Followers
from services.scoring.schemas import AliasName, DatasetName

UPLOADS_AT_ONCE = 2
DRAWINGS_AT_ONCE = 2


@dataclass(frozen=True)
class ScoringState:
    """Lives on `app.state.scoring`; close it when the application ends."""

    settings: Settings
    database: Database
    broker: Broker
    uploads: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(UPLOADS_AT_ONCE))
    """Held by each upload that has arrived, while it is looked through: that takes disk and a core."""
    drawing: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(DRAWINGS_AT_ONCE))
    """Threads that draw pictures: those that wait for one keep none from other calls."""

    @cached_property
    def blobs(self) -> BlobStore:
        """Where datasets lie. Raises DatasetUnavailable where packages are missing."""
        return open_blobs(self.settings)

    @cached_property
    def followers(self) -> Followers:
        """Clients that follow jobs; made on the event loop."""
        return Followers(self.database, most=self.settings.max_event_streams)

    @property
    def open_limits(self) -> OpenLimits:
        of = self.settings
        return OpenLimits(of.key_open_jobs, of.key_open_pages, of.max_open_jobs, of.max_open_pages)

    def close(self) -> None:
        self.database.close()


def _caller(request: Request) -> str | None:
    name = key_name(request)
    return None if name is None else f"key {name}"


def scoring_state(request: Request) -> ScoringState:
    state: ScoringState = request.app.state.scoring
    return state


def check_promotion(request: Request, promote: Promote) -> None:
    """Raises Forbidden if a request moves the alias `default` and its key may move none."""
    if promote is True:
        check_scope(request.scope, Scope.ADMIN, "promote: true")


State = Annotated[ScoringState, Depends(scoring_state)]


def _read_session(state: State) -> Iterator[Session]:
    with state.database.read() as session:
        yield session


def _write_session(state: State) -> Iterator[Session]:
    with state.database.write() as session:
        yield session


# Of scope "function": the transaction ends before the answer is sent, and a commit that fails is an error answer.
ReadSession = Annotated[Session, Depends(_read_session, scope="function")]
"""A session that only reads, for the time of the route's function."""
WriteSession = Annotated[Session, Depends(_write_session, scope="function")]
"""A session whose transaction commits when the route's function has returned, and rolls back if it raises."""

Caller = Annotated[str | None, Depends(_caller)]
"""Who calls, as the history of aliases names them; None where no key is needed."""

KeyName = Annotated[str | None, Depends(key_name)]
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
TagFilter = Annotated[
    list[Tag], Query(max_length=32, description="list only maps with this tag; repeated: with all of them")
]
KindFilter = Annotated[MapKind | None, Query(description="list only maps of this kind")]
DatasetFilter = Annotated[ShortName | None, Query(description="list only maps of this dataset")]
RuleFilter = Annotated[ShortName | None, Query(description="list only maps of this rule, such as aligned")]
MinPages = Annotated[int | None, Query(ge=0, le=2**31 - 1, description="list only maps of as many pages or more")]
TextFilter = Annotated[
    ShortName | None,
    Query(description="list only maps with this text in the model's name, a tag or the notes; capitals do not count"),
]
OrderBy = Annotated[MapOrder, Query(description="order of the list; lowest first unless it says desc")]

Budget = Annotated[int, Query(ge=1, le=1_000_000, description="tokens kept per KV head, on average")]
PromptTokens = Annotated[int, Query(ge=1, le=10_000_000)]
Window = Annotated[
    int | None,
    Query(
        ge=0,
        le=1_000_000,
        description="last tokens of the prompt, which observe and are kept; as the selector says by default",
    ),
]
KeepRecent = Annotated[
    int | None, Query(ge=0, le=1_000_000, description="last tokens of the prompt that are kept, if other than window")
]
Selector = Annotated[
    ShortName | None,
    Query(description=f"{', '.join(SELECTORS)}; {DEFAULT_SELECTOR} by default, and snapkv for a request with window"),
]
Uniform = Annotated[float, Query(ge=0, le=1, allow_inf_nan=False)]

IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="repeated requests with this key get the same job; each API key has its own",
    ),
]
