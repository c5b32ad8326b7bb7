"""Map files: a map and all that the registry knows about it, as one JSON object.

The command line, the API, the dashboard, the Hub and the bundled model have the same file. Its scores have the form
that SparseMM publishes, and only the model, the KV heads and the scores are required. Export, import and export give
the same file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema
from pydantic_core import ErrorDetails
from sqlalchemy import select
from sqlalchemy.orm import Session

from headmap.errors import InvalidParameter, InvalidScores, shown
from headmap.head_scores import HEAD_PATTERN, MAX_HEADS, HeadScores
from headmap.json_numbers import Integer
from headmap.map_kinds import VISUAL, MapKind
from headmap.registry.aliases import Promote
from headmap.registry.maps import (
    MAX_MODEL,
    MAX_REVISION,
    NAME_PATTERN,
    Provenance,
    add_map,
    get_map,
    get_scores,
    get_standard_errors,
)
from headmap.registry.tables import Map

KIND = "what the scored heads look at: the picture (visual), or a text in the prompt (text-retrieval)"

_MOST = 2**63 - 1
_HIGHEST_ERROR = 1e300
_SHOWN = 80


def _time(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        time = datetime.fromisoformat(value)
        if time.tzinfo is None:
            raise ValueError("no time zone")
        return time.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("must be a time with its zone, as 2026-11-29T12:00:00Z") from None


Count = Annotated[Integer, Field(ge=0, le=_MOST)]
Time = Annotated[datetime, BeforeValidator(_time)]
ModelName = Annotated[str, Field(min_length=1, max_length=MAX_MODEL, pattern=NAME_PATTERN)]
Revision = Annotated[str, Field(min_length=1, max_length=MAX_REVISION, pattern=NAME_PATTERN)]
Tag = Annotated[str, Field(min_length=1, max_length=64, pattern=NAME_PATTERN)]
Tags = Annotated[list[Tag], Field(max_length=32)]
Notes = Annotated[str, Field(max_length=10_000, pattern=r"^[^\x00]*$")]
ShortName = Annotated[str, Field(min_length=1, max_length=64, pattern=NAME_PATTERN)]
_Score = {"type": "number", "minimum": 0}

# Checked value by value by HeadScores.from_sparsemm, whose errors name the key.
SparseMMScores = Annotated[
    dict[str, Any],
    WithJsonSchema(
        {
            "type": "object",
            "description": 'The public SparseMM file: {"layer-head": [score per page, ...] or score}',
            "minProperties": 1,
            "maxProperties": MAX_HEADS,
            "propertyNames": {"pattern": f"^{HEAD_PATTERN}$"},
            "additionalProperties": {"anyOf": [_Score, {"type": "array", "items": _Score, "minItems": 1}]},
        }
    ),
]
_Matrix = Annotated[
    list[Any],
    WithJsonSchema({"type": "array", "items": {"type": "array", "items": _Score, "minItems": 1}, "minItems": 1}),
]


@dataclass(frozen=True)
class MapFile:
    """The content of a map file. Without its own `code_version`, it gets that of the registry's code when filed."""

    provenance: Provenance
    scores: HeadScores
    standard_errors: npt.NDArray[np.float64] | None = None
    """(num_layers, num_heads) float64, in units of the normalised scores; None if unknown."""
    code_version: str | None = None
    tags: tuple[str, ...] = ()
    notes: str | None = None

    def text(self) -> str:
        """The file: JSON with a field on each line."""
        known = {name: _one_zero(value) for name, value in asdict(self.provenance).items() if name != "job_id"}
        made = self.provenance.origin_created_at
        body = {
            **known,
            "origin_created_at": None if made is None else made.isoformat(),
            "code_version": self.code_version,
            "tags": self.tags,
            "notes": self.notes,
            "num_kv_heads": self.scores.num_kv_heads,
            "checksum": self.scores.checksum(),
            "scores": self.scores.to_sparsemm(),
            "standard_errors": None if self.standard_errors is None else self.standard_errors.tolist(),
        }
        lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in body.items())
        return f"{{\n{lines}\n}}\n"

    @property
    def name(self) -> str:
        """A name for the file on disk, such as `some-model-v3.json`."""
        version = self.provenance.origin_version
        model = "".join(one if one.isascii() and (one.isalnum() or one in "._-") else "-" for one in self.model)
        return f"{model.strip('.-') or 'map'}{'' if version is None else f'-v{version}'}.json"

    @property
    def model(self) -> str:
        return self.provenance.model


class MapBody(BaseModel):
    """A map file as JSON. A field that is missing or null is unknown; no other fields may be there."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: ModelName
    revision: Revision | None = None
    architecture: Annotated[str, Field(min_length=1, max_length=128, pattern=NAME_PATTERN)] | None = None
    kind: MapKind = Field(VISUAL, description=KIND)
    dataset: ShortName = "import"
    pages: Annotated[Integer, Field(ge=0, le=2**31 - 1)] | None = Field(None, description="pages read for the map")
    hits: Count | None = None
    tokens_seen: Count | None = None
    tokens_matched: Count | None = None
    halves_top5pct_overlap: float | None = Field(None, ge=0, le=1, allow_inf_nan=False)
    halves_spearman: float | None = Field(None, ge=-1, le=1, allow_inf_nan=False)
    rule: Annotated[str, Field(min_length=1, max_length=32, pattern=NAME_PATTERN)] | None = None
    seed: Count | None = None
    max_new_tokens: Annotated[Integer, Field(ge=1, le=2**31 - 1)] | None = None
    dataset_checksum: ShortName | None = None
    origin_map_id: str | None = Field(None, pattern="^[0-9a-f]{32}$", description="the map's id where it was made")
    origin_version: Annotated[Integer, Field(ge=1, le=2**31 - 1)] | None = Field(
        None, description="the map's number where it was made"
    )
    origin_created_at: Time | None = Field(None, description="when the map was made")
    origin_repo: Annotated[str, Field(min_length=1, max_length=256, pattern=NAME_PATTERN)] | None = Field(
        None, description="the Hub repository and commit that it was pulled from"
    )
    code_version: ShortName | None = Field(None, description="version of the code that made the map")
    tags: Tags = Field(default_factory=list)
    notes: Notes | None = None
    num_kv_heads: Integer = Field(ge=1, le=99_999)
    checksum: str | None = Field(None, pattern="^[0-9a-f]{64}$", description="SHA-256 of the normalised scores")
    scores: SparseMMScores
    standard_errors: _Matrix | None = Field(None, description="layers x heads, in units of the normalised scores")

    def read(self) -> MapFile:
        """The content. Raises InvalidScores, and InvalidParameter for a wrong checksum or wrong standard errors."""
        scores = HeadScores.from_sparsemm(self.scores, self.num_kv_heads)
        if self.checksum not in (None, scores.checksum()):
            raise InvalidParameter(
                f"checksum: the scores have {scores.checksum()}, got {self.checksum}; the file was damaged or changed",
                param="checksum",
            )
        known = {name: getattr(self, name) for name in Provenance.__dataclass_fields__ if name != "job_id"}
        return MapFile(
            Provenance(**known),
            scores,
            None if self.standard_errors is None else _read_errors(self.standard_errors, scores),
            self.code_version,
            tuple(self.tags),
            self.notes,
        )


def parse_map_file(body: object) -> MapFile:
    """Read the parsed JSON of a map file. Raises InvalidParameter and InvalidScores, which name the field."""
    try:
        return MapBody.model_validate(body).read()
    except ValidationError as error:
        raise _invalid(error.errors()[0]) from None


def read_map_file(session: Session, map_id: str) -> MapFile:
    """Make the file of a map in the registry. Raises MapNotFound.

    `origin_...` tell where the map was first made: here, unless it came from elsewhere.
    """
    record = get_map(session, map_id)
    known = {name: getattr(record, name) for name in Provenance.__dataclass_fields__}
    known |= {
        "origin_map_id": record.origin_map_id or record.id,
        "origin_version": record.origin_version or record.version,
        "origin_created_at": record.origin_created_at or record.created_at,
    }
    return MapFile(
        Provenance(**known),
        get_scores(session, map_id),
        get_standard_errors(session, map_id),
        record.code_version,
        tuple(record.tags),
        record.notes,
    )


def add_map_file(session: Session, file: MapFile, *, promote: Promote, by: str | None) -> str:
    """File a map from its file as the model's next version, as `add_map` does, and return its id here."""
    return add_map(
        session,
        replace(file.provenance, job_id=None),
        file.scores,
        standard_errors=file.standard_errors,
        code_version=file.code_version,
        tags=file.tags,
        notes=file.notes,
        promote=promote,
        by=by,
    )


def find_map_file(session: Session, file: MapFile) -> str | None:
    """Return the id of the map that the file describes: the one it was made from, or an equal one that was filed.

    Tags, notes and the repository do not count.
    """
    known = vars(file.provenance)
    made = [name for name in known if not name.startswith("origin_") and name != "job_id"]
    origin = [name for name in known if name.startswith("origin_") and name != "origin_repo"]
    equal = [getattr(Map, name) == known[name] for name in made]
    here = select(Map.id).where(Map.checksum == file.scores.checksum(), *equal).order_by(Map.version)
    own = here.where(Map.id == known["origin_map_id"])
    filed = here.where(*(getattr(Map, name) == known[name] for name in origin))
    return session.scalar(own.limit(1)) or session.scalar(filed.limit(1))


def _invalid(error: ErrorDetails) -> InvalidParameter:
    field = ".".join(map(str, error["loc"]))[:_SHOWN] or "body"
    reasons = {"missing": "missing", "extra_forbidden": "unknown field", "model_type": "must be a JSON object"}
    message = f"{error['msg'][:1].lower()}{error['msg'][1:]}, got {shown(error['input'])}"
    reason = reasons.get(error["type"], message)
    return InvalidParameter(f"{field}: {reason}", param=field)


def _one_zero(value: object) -> object:
    """Return 0.0 for -0.0. SQLite does not store the sign of a zero, so a registry would change the file."""
    return value + 0.0 if isinstance(value, float) else value


def _read_errors(rows: Sequence[Any], scores: HeadScores) -> npt.NDArray[np.float64]:
    layers, heads = scores.matrix.shape
    if len(rows) != layers:
        raise InvalidParameter(
            f"standard_errors: must be {layers} lists as there are layers, got {len(rows)}", param="standard_errors"
        )
    found = np.empty((layers, heads))
    for layer, row in enumerate(rows):
        if not _is_row(row, heads):
            raise InvalidParameter(
                f"standard_errors[{layer}]: must be a list of {heads} finite numbers >= 0", param="standard_errors"
            )
        found[layer] = list(row)
    return found


def _is_row(row: object, heads: int) -> bool:
    if not isinstance(row, Sequence) or isinstance(row, str | Mapping) or len(row) != heads:
        return False
    try:
        values = list(row)
    except InvalidScores:  # a list of a request that is no JSON
        return False
    return all(
        isinstance(one, int | float) and not isinstance(one, bool) and 0 <= one <= _HIGHEST_ERROR for one in values
    )
