"""Bodies of evaluations, as API.md has them. Unknown fields are refused by name, and null means absent."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field

from headmap.datasets.uploads import NAME
from headmap.evaluation.cases import DEFAULT_METHODS, DEFAULT_RATIOS, DEFAULT_SELECTORS
from headmap.evaluation.curve import DEFAULT_MARGIN, Curve
from headmap.evaluation.metrics import METRICS
from headmap.evaluation.sources import DEFAULT_QUESTIONS
from headmap.http.kv_body import SelectBody
from headmap.http.request_body import Body
from headmap.kvcache.methods import METHODS
from headmap.kvcache.select import SELECTORS, Select
from headmap.registry.jobs import JobRecord
from headmap.registry.map_file import ModelName, Revision
from headmap.registry.tables import JobState
from services.scoring.schemas import AliasName, Progress

MAX_QUESTIONS = 10_000
MAX_RATIOS = 16
MAX_SELECTORS = 16

Method = Annotated[str, Field(max_length=64, json_schema_extra={"enum": list(METHODS)})]
Ratio = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
SelectorName = Annotated[str, Field(max_length=64, json_schema_extra={"enum": list(SELECTORS)})]
Selector = SelectBody | SelectorName


def asked_selector(given: SelectBody | str) -> str | Select:
    """The name of a selector, or its numbers, not checked yet."""
    return given if isinstance(given, str) else given.asked()


class EvaluationRequest(Body):
    model: ModelName
    revision: Revision | None = None
    map: AliasName | None = Field(None, description="id or alias of the map for sparsemm; the served one by default")
    dataset: str = Field(
        min_length=1,
        max_length=64,
        pattern=f"^{NAME}(/{NAME})*$",
        description="name from GET /datasets, or OWNER/NAME[/PART] of a public set in the workers' Hub cache",
    )
    questions: int | None = Field(
        None,
        ge=1,
        le=MAX_QUESTIONS,
        description=f"questions to ask; {DEFAULT_QUESTIONS}, or all of a smaller upload, by default",
    )
    methods: Annotated[list[Method], Field(min_length=1, max_length=len(METHODS))] = Field(
        list(DEFAULT_METHODS), description="methods to compare; full is always among them"
    )
    ratios: Annotated[list[Ratio], Field(max_length=MAX_RATIOS)] = Field(
        list(DEFAULT_RATIOS), description="shares of the prompt that each method keeps"
    )
    selectors: Annotated[list[Selector], Field(min_length=1, max_length=MAX_SELECTORS)] = Field(
        list(DEFAULT_SELECTORS), description="what selects the tokens that are kept, by name or as in kv.select"
    )
    metric: str | None = Field(
        None,
        max_length=64,
        description="how answers are marked; the dataset's own by default",
        json_schema_extra={"enum": list(METRICS)},
    )
    max_new_tokens: int | None = Field(
        None, ge=1, le=32_768, description="most tokens of an answer; the dataset's own bound by default"
    )
    margin: float = Field(
        DEFAULT_MARGIN, gt=0, le=1, allow_inf_nan=False, description="loss against the full cache that is still no loss"
    )
    seed: int = Field(0, ge=0, le=2**63 - 1, description="of the questions' order, or of made-up pages")
    force: bool = Field(False, description="start a new job even if an equal one exists")


class PromoteRequest(Body):
    """The recommended point, or that of `method`, `ratio` and `select`."""

    policy: str = Field(max_length=64, description="name of the policy to write")
    method: Method | None = None
    ratio: float | None = Field(None, description="needed with any method but full", gt=0, le=1, allow_inf_nan=False)
    select: Selector | None = Field(None, description="needed with a method that several selectors were measured with")


class EvaluationParamsBody(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    dataset: str
    dataset_checksum: str | None = Field(description="checksum of an uploaded dataset")
    questions: int
    methods: list[str]
    ratios: list[float]
    selectors: list[Selector]
    metric: str
    max_new_tokens: int
    margin: float
    seed: int


class CaseBody(BaseModel):
    method: str
    ratio: float
    select: Selector | None = Field(description="what selected the tokens; null for full, which keeps all")


class PointBody(CaseBody):
    """One method at one ratio with one selector. Shares lie in 0 to 1, differences in -1 to 1."""

    right: float = Field(description="the mean mark")
    total: int = Field(description="questions asked")
    interval: tuple[float, float] = Field(description="95 % interval of right")
    kept_tokens: float = Field(description="tokens kept of a prompt, over all layers and KV heads, on average")
    kept_bytes: float
    difference_to_full: float = Field(description="right less that of the full cache on the same questions")
    difference_interval: tuple[float, float]
    p_value: float | None = Field(description="McNemar's exact test; null where the metric gives marks between 0 and 1")
    loss_below: float = Field(description="with 95 % confidence the loss against the full cache is below this")
    token_ms: float | None = Field(description="median milliseconds of a decode step of a batch; null if not timed")


class EvaluationResult(BaseModel):
    points: list[PointBody] = Field(description="full first, then by method, selector and ratio")
    recommended: CaseBody | None = Field(
        description="the smallest ratio whose loss is below the margin with 95 % confidence; null: none of these"
    )


class EvaluationBody(BaseModel):
    id: str
    state: JobState
    model: str
    revision: str
    map_id: str | None = Field(description="the map that was resolved when the job was made; null: no method reads one")
    map_version: int | None
    map_revision: str | None = Field(description="the model's revision that the map was made from")
    params: EvaluationParamsBody
    progress: Progress = Field(description="questions asked, and questions in all")
    result: EvaluationResult | None = Field(description="null until the job has succeeded")
    error: str | None
    device: str | None = Field(None, description="kind of device that answers all of its questions, once it has begun")
    waits_for: str | None = Field(None, description="why no worker takes its questions; null if some worker may")
    attempts: int = Field(description="most attempts at one shard; 1 if nothing went wrong")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @classmethod
    def of(cls, job: JobRecord) -> Self:
        asked: dict[str, Any] = {} if job.params.evaluation is None else job.params.evaluation.to_json()
        params = {**vars(job.params), **asked, "questions": job.params.pages}
        progress = Progress(done=job.done, total=job.total)
        result = None if job.result is None else Curve.from_json(job.result).to_json()
        return cls(**{**vars(job), **asked, "params": params, "progress": progress, "result": result})


class EvaluationList(BaseModel):
    items: list[EvaluationBody]
    next_cursor: str | None
