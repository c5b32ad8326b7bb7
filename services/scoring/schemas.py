"""Bodies of the scoring API, as API.md has them. Unknown fields are refused by name."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from headmap.datasets.sources import DEFAULT
from headmap.registry.jobs import JobRecord
from headmap.registry.repository import MapRecord, Match
from headmap.registry.tables import JobState

MAX_PAGES = 100_000

# PostgreSQL stores no NUL, and no name holds a control character.
_PRINTABLE = r"^[^\x00-\x1f\x7f]+$"
ModelName = Annotated[str, Field(min_length=1, max_length=512, pattern=_PRINTABLE)]
Revision = Annotated[str, Field(min_length=1, max_length=128, pattern=_PRINTABLE)]
AliasName = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
DatasetName = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[a-z0-9][a-z0-9._-]*$")]


def _whole(value: object) -> object:
    """JSON knows one kind of number: 10.0 is the integer 10. Strings and booleans are none."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Integer = Annotated[int, BeforeValidator(_whole)]

# Checked value by value by HeadScores.from_sparsemm, whose errors name the key; a million numbers pass here once.
SparseMMScores = Annotated[
    dict[str, Any],
    WithJsonSchema(
        {
            "type": "object",
            "description": 'The public SparseMM file: {"layer-head": [score per page, ...] or score}',
            "minProperties": 1,
            "propertyNames": {"pattern": "^[0-9]{1,5}-[0-9]{1,5}$"},
            "additionalProperties": {
                "anyOf": [
                    {"type": "number", "minimum": 0},
                    {"type": "array", "items": {"type": "number", "minimum": 0}, "minItems": 1},
                ]
            },
        }
    ),
]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class ScoreRequest(_Request):
    model: ModelName
    revision: Revision | None = None
    dataset: DatasetName = Field(DEFAULT, description="one of GET /datasets")
    pages: Integer = Field(1000, ge=1, le=MAX_PAGES)
    rule: Literal["aligned", "paper"] = "aligned"
    seed: Integer = Field(0, ge=0, le=2**63 - 1)
    max_new_tokens: Integer = Field(1024, ge=1, le=32_768)
    force: bool = Field(False, description="start a new job even where an equal one stands")


class MapImport(_Request):
    model: ModelName
    revision: Revision | None = None
    num_kv_heads: Integer = Field(ge=1, le=99_999)
    scores: SparseMMScores


class Params(BaseModel):
    dataset: str
    pages: int
    rule: str
    seed: int
    max_new_tokens: int


class Progress(BaseModel):
    """Pages scored, and pages in all."""

    done: int
    total: int


class JobBody(BaseModel):
    id: str
    state: JobState
    model: str
    revision: str
    params: Params
    progress: Progress
    map_id: str | None
    error: str | None
    attempts: int = Field(description="the most that any one shard took; 1 where nothing went wrong")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @classmethod
    def of(cls, job: JobRecord) -> Self:
        fields = dict(vars(job))
        progress = Progress(done=fields.pop("done"), total=fields.pop("total"))
        return cls(**fields | {"params": Params(**vars(job.params)), "progress": progress})


class JobList(BaseModel):
    items: list[JobBody]
    next_cursor: str | None


class MapBody(BaseModel):
    """A map with its provenance; what an import does not tell is null."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    model: str
    revision: str | None
    version: int
    architecture: str | None
    num_layers: int
    num_heads: int
    num_kv_heads: int
    pages: int | None
    hits: int | None
    tokens_seen: int | None
    tokens_matched: int | None
    rule: str | None
    dataset: str
    seed: int | None
    max_new_tokens: int | None
    job_id: str | None
    code_version: str
    checksum: str
    created_at: datetime
    aliases: list[str]

    @classmethod
    def of(cls, record: MapRecord) -> Self:
        return cls.model_validate(record)


class MapList(BaseModel):
    items: list[MapBody]
    next_cursor: str | None


class ResolvedMap(MapBody):
    match: Match


class Budgets(BaseModel):
    """`budgets`: tokens per KV head, one list per layer; with `paper` the formula's, whatever the prompt holds."""

    budgets: list[list[int]]
    total: int = Field(description="sum of the budgets")
    kept_tokens: int = Field(description="sum of min(budget, prompt_tokens): what the heads really keep")
    budget: int
    prompt_tokens: int
    allocation: Literal["exact", "paper"]
    window: int
    uniform: float
    bytes_per_token_per_head: int | None = Field(
        None, description="key and value of one token in one KV head; absent where the model is not here"
    )


class ComparisonBody(BaseModel):
    """Figures lie in 0 to 1, `spearman` in -1 to 1."""

    model_config = ConfigDict(from_attributes=True)

    spearman: float
    top5pct_overlap: float
    top10pct_overlap: float
    total_variation: float
