"""Bodies of the scoring API, as API.md has them. Unknown fields are refused by name."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from headmap.datasets.limits import MAX_PAGES
from headmap.datasets.sources import DEFAULT
from headmap.datasets.uploads import MAX_NAME, NAME
from headmap.json_numbers import Integer
from headmap.map_kinds import VISUAL, MapKind
from headmap.registry.aliases import ALIAS_PATTERN, MAX_ALIAS, Promote
from headmap.registry.datasets import DatasetRecord
from headmap.registry.job_params import AUTO_MAX_PAGES, AUTO_MIN_PAGES, AUTO_OVERLAP
from headmap.registry.jobs import JobRecord
from headmap.registry.map_file import KIND, MapBody, ModelName, Notes, Revision, Tags
from headmap.registry.maps import MapRecord, Match
from headmap.registry.policies import PolicyRecord
from headmap.registry.tables import JobState

PROMOTE = (
    "whether the map takes the alias default: true (a key needs admin), false, or auto, where the model has none; "
    "only a visual map takes it"
)

AliasName = Annotated[str, Field(min_length=1, max_length=MAX_ALIAS, pattern=ALIAS_PATTERN)]
DatasetName = Annotated[str, Field(min_length=1, max_length=MAX_NAME, pattern=f"^{NAME}$")]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class ScoreRequest(_Request):
    model: ModelName
    revision: Revision | None = None
    kind: MapKind = Field(VISUAL, description=KIND)
    dataset: DatasetName = Field(DEFAULT, description="name from GET /datasets")
    pages: Annotated[Integer, Field(ge=1, le=MAX_PAGES)] | Literal["auto"] = Field(
        1000, description="pages to read, or auto: until the map is steady; a smaller upload is read in full by default"
    )
    min_pages: Integer | None = Field(
        None, ge=2, le=MAX_PAGES, description=f"fewest pages to read, with auto; {AUTO_MIN_PAGES} by default"
    )
    max_pages: Integer | None = Field(
        None, ge=2, le=MAX_PAGES, description=f"most pages to read, with auto; {AUTO_MAX_PAGES} by default"
    )
    stable_overlap: float | None = Field(
        None,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="overlap to reach, with auto: of the top 5 % of heads on pages with even and with odd numbers; "
        f"{AUTO_OVERLAP} by default",
    )
    rule: Literal["aligned", "paper"] = "aligned"
    seed: Integer = Field(0, ge=0, le=2**63 - 1)
    max_new_tokens: Integer = Field(1024, ge=1, le=32_768)
    promote: Promote = Field("auto", description=PROMOTE)
    force: bool = Field(False, description="start a new job even if an equal one exists")


class MapImport(MapBody):
    """A map file as it is, or the public SparseMM file as its `scores`."""

    promote: Promote = Field("auto", description=PROMOTE)


class MapNotes(_Request):
    """What people write on a map. A field that is left out stays as it is."""

    tags: Tags = Field(default_factory=list)
    notes: Notes | None = None


class MoveBody(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    alias: str
    map_id: str | None = Field(description="where it points since; null: it was deleted")
    previous: str | None = Field(description="the map it pointed at before; null: it is new")
    moved_by: str | None = Field(description="key NAME, job ID, cli NAME or package; null: callers need no key here")
    moved_at: datetime


class MoveList(BaseModel):
    items: list[MoveBody]
    next_cursor: str | None


class Params(BaseModel):
    kind: MapKind = Field(VISUAL, description="kind of the map that the job makes")
    dataset: str
    pages: int
    rule: str
    seed: int
    max_new_tokens: int
    dataset_checksum: str | None = Field(None, description="checksum of an uploaded dataset")
    promote: Promote = "auto"


class AutoParams(Params):
    """Parameters of a job that decides by itself how many pages it needs."""

    pages: Literal["auto"]  # type: ignore[assignment]  # a number in all other jobs
    min_pages: int
    max_pages: int
    stable_overlap: float


class Progress(BaseModel):
    """Pages scored, and pages in all; a job with `pages: "auto"` counts the pages planned so far."""

    done: int
    total: int


class JobBody(BaseModel):
    id: str
    state: JobState
    model: str
    revision: str
    params: Params | AutoParams
    progress: Progress
    map_id: str | None
    error: str | None
    attempts: int = Field(description="most attempts at one shard; 1 if nothing went wrong")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    device: str | None = Field(None, description="kind of device that all of its pages are read on, once it has begun")
    waits_for: str | None = Field(None, description="why no worker takes its pages; null if some worker may")

    @classmethod
    def of(cls, job: JobRecord) -> Self:
        fields = dict(vars(job))
        progress = Progress(done=fields.pop("done"), total=fields.pop("total"))
        told = {name: value for name, value in vars(job.params).items() if value is not None}
        told["kind"] = told.pop("map_kind")
        params = AutoParams(**told | {"pages": "auto"}) if "stable_overlap" in told else Params(**told)
        return cls(**fields | {"params": params, "progress": progress})


class JobList(BaseModel):
    items: list[JobBody]
    next_cursor: str | None


class DatasetBody(BaseModel):
    """Unknown values of a built-in dataset are null: made-up pages have no end, and only workers have a public set."""

    id: str | None = None
    name: str
    kind: Literal["made-up", "public", "uploaded"]
    pages: int | None = None
    words: int | None = None
    questions: int | None = None
    bytes: int | None = Field(None, description="size of pictures and records")
    checksum: str | None = Field(
        None, description="SHA-256 over pictures and records; equal pages have equal checksums"
    )
    created_at: datetime | None = None

    @classmethod
    def of(cls, record: DatasetRecord) -> Self:
        return cls(kind="uploaded", **vars(record))


class DatasetList(BaseModel):
    """`items`: uploads, newest first. `built_in`: the built-in datasets, on every page of the list."""

    items: list[DatasetBody]
    next_cursor: str | None
    built_in: list[DatasetBody]


class PolicyList(BaseModel):
    items: list[PolicyRecord]
    next_cursor: str | None


class MapList(BaseModel):
    items: list[MapRecord]
    next_cursor: str | None


@dataclass(frozen=True, kw_only=True)
class ResolvedMap(MapRecord):
    match: Match


class Budgets(BaseModel):
    """`budgets`: tokens per KV head, one list per layer. `paper` ignores the prompt's length."""

    budgets: list[list[int]]
    total: int = Field(description="sum of the budgets")
    kept_tokens: int = Field(description="tokens that the heads keep; no head keeps more than its layer sees")
    full_tokens: int = Field(description="tokens that the full cache would hold")
    budget: int
    prompt_tokens: int
    allocation: Literal["exact", "paper"]
    window: int = Field(description="last tokens of the prompt that observe")
    keep_recent: int = Field(description="last tokens of the prompt that every head keeps")
    uniform: float
    sliding_window: int | None = Field(
        None,
        description="tokens of the sliding window; absent if no layer has one, or the model is not on this machine",
    )
    sliding_layers: list[int] = Field(description="layers that keep the sliding window under any budget")
    bytes_per_token_per_head: int | None = Field(
        None,
        description="bytes of one token's key and value in one KV head; absent if the model is not on this machine",
    )


class ComparisonBody(BaseModel):
    """Figures lie in 0 to 1, `spearman` and `pearson` in -1 to 1."""

    model_config = ConfigDict(from_attributes=True)

    spearman: float
    pearson: float
    top5pct_overlap: float
    top5pct_by_chance: float = Field(description="overlap to expect of a map that has nothing to do with this one")
    top10pct_overlap: float
    top10pct_by_chance: float
    total_variation: float


class HeadBody(BaseModel):
    """A head's place in its map. `standard_error`, `low`, `high`: null for an import, which has no pages."""

    rank: int = Field(description="rank; 1 for the head with the highest score")
    layer: int
    head: int
    kv_head: int
    score: float = Field(description="score; all heads sum to 1")
    standard_error: float | None = Field(description="standard error of the score, over pages")
    low: float | None = Field(description="lower end of the score's 95 % confidence interval")
    high: float | None = Field(description="upper end of the score's 95 % confidence interval")


class HeadList(BaseModel):
    items: list[HeadBody]
    total: int = Field(description="number of heads in the map")


class LookBody(BaseModel):
    """Where the head looked when the model wrote one token of one of the page's words."""

    model_config = ConfigDict(from_attributes=True)

    token: str
    word: int = Field(description="index in words")
    cell: tuple[float, float, float, float] | None = Field(
        description="x0, y0, x1, y1 in page pixels of the visual token with the highest attention; null if the "
        "head looked at text, or at a visual token without a place"
    )
    hit: bool = Field(description="whether the cell shows the word; the head's score counts these")


class WordBody(BaseModel):
    text: str
    box: tuple[float, float, float, float] = Field(description="x0, y0, x1, y1 in page pixels")


class OverlayBody(BaseModel):
    """One page with where one head looked."""

    map_id: str
    layer: int
    head: int
    page: int
    pages: list[int] = Field(description="pages that can be asked for")
    width: int
    height: int
    hits: int
    words: list[WordBody]
    looks: list[LookBody] = Field(description="one for each token that reads a word, in the order of the answer")
