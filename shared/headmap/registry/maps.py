"""Head maps: all reads and writes.

Maps are immutable and numbered per model; only aliases move (`headmap.registry.aliases`). People can change a map's
tags and notes, which are not part of the map.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Literal

import numpy as np
from sqlalchemy import Select, delete, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

import headmap
from headmap.errors import HeadNotFound, MapInUse, MapMismatch, MapNotFound, Unavailable
from headmap.head_scores import HeadScores
from headmap.map_kinds import VISUAL, MapKind
from headmap.registry.aliases import (
    DEFAULT_ALIAS,
    Promote,
    check_promote,
    point,
    pointed_at,
    take_default,
)
from headmap.registry.map_search import NEWEST_FIRST, MapSearch
from headmap.registry.paging import Page, after, page_of
from headmap.registry.session import changed, is_id, utc_now
from headmap.registry.tables import Alias, DeletedMap, Evaluation, Job, JobState, Map, Policy

Match = Literal["exact", "revision"]

_VERSION_TRIES = 100


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """The origin of a map. Fields that an import does not give are None.

    `halves_...`: the similarity of the maps of even and of odd pages (`headmap.page_sums.Stability`). `origin_...`: the
    map in the registry that made it, and the Hub repository it was pulled from, as REPO@COMMIT; None for a map that
    was made here.
    """

    model: str
    revision: str | None
    architecture: str | None
    kind: MapKind = VISUAL
    dataset: str
    pages: int | None = None
    hits: int | None = None
    tokens_seen: int | None = None
    tokens_matched: int | None = None
    halves_top5pct_overlap: float | None = None
    halves_spearman: float | None = None
    rule: str | None = None
    seed: int | None = None
    max_new_tokens: int | None = None
    dataset_checksum: str | None = None
    origin_map_id: str | None = None
    origin_version: int | None = None
    origin_created_at: datetime | None = None
    origin_repo: str | None = None
    job_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class MapRecord(Provenance):
    """A map without its scores; `get_scores` fetches those."""

    id: str
    version: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    code_version: str
    checksum: str
    created_at: datetime
    tags: list[str]
    notes: str | None
    aliases: tuple[str, ...]


NAME_PATTERN = "^[^\\x00-\\x1f\\x7f-\\x9f\u2028\u2029\ufffe\uffff]+$"
"""Of models and revisions. PostgreSQL stores no NUL, SVG shows no U+FFFE, and no name holds a control character."""
MAX_MODEL, MAX_REVISION = 512, 128

_COLUMNS = [field.name for field in fields(MapRecord) if field.name != "aliases"]


def add_map(
    session: Session,
    provenance: Provenance,
    scores: HeadScores,
    *,
    raw: np.ndarray | None = None,
    standard_errors: np.ndarray | None = None,
    code_version: str | None = None,
    tags: Sequence[str] = (),
    notes: str | None = None,
    promote: Promote,
    by: str | None,
) -> str:
    """File a map as the model's next version, set `default` if `promote` allows it, and return the map's id.

    Only a visual map takes `default`: `"auto"` leaves it where it is for others, and true raises InvalidParameter.
    `raw`: (num_layers, num_heads) float64, the scores before normalisation, if known. The stored scores are read back
    and checked, so the checksum matches the scores that every reader gets. `standard_errors`: the same shape, in units
    of the normalised scores. `code_version`: of the code that made the map; None means this code. Raises Unavailable
    if other writers took the version at every try.
    """
    check_promote(provenance.kind, promote)
    stored = (scores.matrix if raw is None else raw).tolist()
    served = HeadScores(np.array(stored), scores.num_kv_heads)
    now = utc_now(session)
    for _ in range(_VERSION_TRIES):
        row = Map(
            **vars(provenance),
            id=uuid.uuid4().hex,
            version=_newest_version(session, provenance.model) + 1,
            num_layers=served.num_layers,
            num_heads=served.num_heads,
            num_kv_heads=served.num_kv_heads,
            code_version=code_version or headmap.__version__,
            checksum=served.checksum(),
            scores=json.dumps(stored),
            standard_errors=None if standard_errors is None else json.dumps(standard_errors.tolist()),
            tags=list(tags),
            notes=notes,
            created_at=now,
        )
        try:
            with session.begin_nested():
                session.add(row)
        except IntegrityError:
            continue  # another transaction took this version; the next look sees it
        if provenance.kind == VISUAL:
            take_default(session, provenance.model, row.id, promote, by=by)
        return row.id
    raise Unavailable(f"model: too many maps of {provenance.model!r} are being written at once")


def get_map(session: Session, map_id: str) -> MapRecord:
    """Return a map by id. Raises MapNotFound."""
    row = session.execute(_maps().where(Map.id == map_id)).one_or_none() if is_id(map_id) else None
    if row is None:
        raise _not_found(map_id)
    return _records(session, [row])[0]


def check_head(record: MapRecord, layer: int, head: int) -> None:
    """Raises HeadNotFound for a head that the map does not have."""
    if not (0 <= layer < record.num_layers and 0 <= head < record.num_heads):
        raise HeadNotFound(
            f"head: map {record.id!r} has {record.num_layers} layers x {record.num_heads} heads, "
            f"so there is no layer {layer}, head {head}",
            param="head" if 0 <= layer < record.num_layers else "layer",
        )


def get_scores(session: Session, map_id: str) -> HeadScores:
    """Return a map's scores, bit for bit the same each time. Raises MapNotFound."""
    row = (
        session.execute(select(Map.scores, Map.num_kv_heads).where(Map.id == map_id)).one_or_none()
        if is_id(map_id)
        else None
    )
    if row is None:
        raise _not_found(map_id)
    return HeadScores(np.array(json.loads(row.scores), dtype=np.float64), row.num_kv_heads)


def get_standard_errors(session: Session, map_id: str) -> np.ndarray | None:
    """(num_layers, num_heads) float64 in units of the normalised scores; None for an import. Raises MapNotFound."""
    row = session.execute(select(Map.standard_errors).where(Map.id == map_id)).one_or_none() if is_id(map_id) else None
    if row is None:
        raise _not_found(map_id)
    return None if row.standard_errors is None else np.array(json.loads(row.standard_errors), dtype=np.float64)


def list_maps(
    session: Session,
    search: MapSearch | None = None,
    *,
    model: str | None = None,
    limit: int = 50,
    cursor: str | None = None,
) -> Page[MapRecord]:
    """List the maps that `search` finds, or all of a model, or all, newest first unless it says otherwise.

    Raises InvalidParameter for a malformed cursor or one of another order.
    """
    search = search or MapSearch(model=model)
    order = "" if search.order_by == NEWEST_FIRST else search.order_by
    query = search.narrow(_maps()).limit(limit + 1)
    if cursor is not None:
        query = query.where(after(cursor, search.key, Map.id, order=order, descending=search.descending))
    records = _records(session, session.execute(query).all())
    return page_of(records, limit, lambda record: (search.key_of(record), record.id), order)


def set_alias(
    session: Session, map_id: str, alias: str, *, by: str | None, expected: frozenset[str] | None = None
) -> MapRecord:
    """Point `alias` of the map's model at the map.

    Raises MapNotFound, MapMismatch for a map that is not visual, and AliasMoved as `aliases.point` does.
    """
    record = get_map(session, map_id)
    if record.kind != VISUAL:
        raise MapMismatch(f"map: {map_id!r} is of kind {record.kind!r}; aliases point at visual maps", param="map_id")
    point(session, record.model, alias, map_id, by=by, expected=expected)
    return get_map(session, map_id)


def annotate_map(session: Session, map_id: str, values: Mapping[str, Any]) -> MapRecord:
    """Replace a map's `tags` (list of str) and `notes` (str or None) if they are in `values`. Raises MapNotFound."""
    get_map(session, map_id)
    if values:
        changed(session, update(Map).where(Map.id == map_id).values(**values))
    return get_map(session, map_id)


def delete_map(session: Session, map_id: str) -> None:
    """Delete a map that no alias, no policy and no open evaluation uses; no other map gets its number.

    Results of evaluations stay. An equal request then profiles the model again. Raises MapNotFound, and MapInUse if
    aliases point at the map, policies name it by its id or evaluations that have not ended read it.
    """
    record = get_map(session, map_id)
    policies = session.scalars(select(Policy.name).where(Policy.map_id == map_id).order_by(Policy.name)).all()
    reading = select(Job.id).join(Evaluation, Evaluation.job_id == Job.id).where(Evaluation.map_id == map_id)
    open_states = (JobState.QUEUED, JobState.RUNNING)
    held = [f"alias {name}" for name in record.aliases] + [f"policy {name}" for name in policies]
    held += [f"evaluation {job_id}" for job_id in session.scalars(reading.where(Job.state.in_(open_states)))]
    if held:
        raise _in_use(record, ", ".join(held))
    if record.job_id is not None:
        changed(session, update(Job).where(Job.id == record.job_id).values(active_key=None))
    try:
        if not changed(session, delete(Map).where(Map.id == map_id)):
            raise _not_found(map_id)  # another deleted it meanwhile
        session.add(DeletedMap(model=record.model, version=record.version, map_id=map_id, deleted_at=utc_now(session)))
        session.flush()
    except IntegrityError as error:  # an alias or policy used it meanwhile
        raise _in_use(record, "an alias or a policy") from error


def _newest_version(session: Session, model: str) -> int:
    """The highest number that a map of the model has or had, 0 if there was none.

    One statement sees one moment: between two, a deleted map could be missing from both tables.
    """
    filed = select(func.max(Map.version)).where(Map.model == model).scalar_subquery()
    deleted = select(func.max(DeletedMap.version)).where(DeletedMap.model == model).scalar_subquery()
    return max(number or 0 for number in session.execute(select(filed, deleted)).one())


def _not_found(map_id: str) -> MapNotFound:
    return MapNotFound(f"map: there is no map {map_id!r}", param="map_id")


def _in_use(record: MapRecord, names: str) -> MapInUse:
    return MapInUse(
        f"map: {record.id!r} of {record.model!r} is held by {names}; move, delete or cancel that first", param="map_id"
    )


def resolve_map(
    session: Session, model: str, revision: str | None = None, alias: str | None = None
) -> tuple[MapRecord, Match]:
    """Find the map to serve `model` with, and its match: `exact`, or `revision` if it is from another revision.

    With `alias`, this is the alias's map. Without it, this is `default` if `default` has this revision or no known
    revision, else the newest visual map of this revision, else `default`. Without `revision`, every map matches
    exactly. Raises MapNotFound.
    """
    map_id = pointed_at(session, model, alias or DEFAULT_ALIAS)
    if map_id is None:
        wanted = f"alias {alias!r} of model {model!r}" if alias else f"map of model {model!r}"
        raise MapNotFound(f"there is no {wanted}", param="alias" if alias else "model")
    record = get_map(session, map_id)
    if revision is None or record.revision == revision:
        return record, "exact"
    if alias is None and record.revision is not None:
        of_revision = select(Map.id).where(Map.model == model, Map.revision == revision, Map.kind == VISUAL)
        newest = session.scalar(of_revision.order_by(Map.version.desc()).limit(1))
        if newest is not None:
            return get_map(session, newest), "exact"
    return record, "revision"


def find_map(session: Session, model: str, name: str, revision: str | None = None) -> tuple[MapRecord, Match]:
    """Find the map with the id or alias `name` of `model`, and how well it matches. Raises MapNotFound."""
    record = session.scalar(select(Map.id).where(Map.id == name, Map.model == model))
    if record is None:
        return resolve_map(session, model, revision, name)
    found = get_map(session, record)
    return found, "exact" if revision is None or found.revision == revision else "revision"


def _maps() -> Select[Any]:
    return select(*(getattr(Map, name) for name in _COLUMNS))


def _records(session: Session, rows: Sequence[Any]) -> list[MapRecord]:
    aliases: dict[str, list[str]] = {row.id: [] for row in rows}
    for map_id, alias in session.execute(
        select(Alias.map_id, Alias.alias).where(Alias.map_id.in_(aliases)).order_by(Alias.alias)
    ):
        aliases[map_id].append(alias)
    return [MapRecord(**row._mapping, aliases=tuple(aliases[row.id])) for row in rows]
