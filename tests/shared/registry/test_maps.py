"""Maps and aliases: numbering, the default, and which map serves a model."""

from __future__ import annotations

import numpy as np
import pytest

from headmap.errors import InvalidParameter, MapMismatch, MapNotFound
from headmap.head_scores import HeadScores
from headmap.map_kinds import MapKind
from headmap.registry import maps
from headmap.registry.aliases import Promote
from headmap.registry.maps import Provenance
from headmap.registry.session import Database


def add(
    database: Database,
    model: str = "m",
    revision: str | None = "r1",
    *,
    promote: Promote = "auto",
    kind: MapKind = "visual",
) -> str:
    scores = HeadScores(np.random.default_rng(0).random((2, 4)), 2)
    provenance = Provenance(model=model, revision=revision, architecture=None, kind=kind, dataset="import")
    with database.write() as session:
        return maps.add_map(session, provenance, scores, promote=promote, by=None)


def resolve(database: Database, revision: str | None = None, alias: str | None = None) -> tuple[str, str]:
    with database.read() as session:
        record, match = maps.resolve_map(session, "m", revision, alias)
    return record.id, match


def test_maps_are_numbered_per_model(database: Database) -> None:
    ids = [add(database), add(database), add(database, "other"), add(database)]
    with database.read() as session:
        records = [maps.get_map(session, map_id) for map_id in ids]
    assert [(record.model, record.version) for record in records] == [("m", 1), ("m", 2), ("other", 1), ("m", 3)]


def test_the_first_map_becomes_default_and_no_later_one_takes_it(database: Database) -> None:
    first = add(database)
    add(database)
    assert resolve(database) == (first, "exact")


def test_a_map_takes_default_when_it_is_told_to_and_none_when_it_is_told_not_to(database: Database) -> None:
    add(database, promote=False)
    with pytest.raises(MapNotFound):
        resolve(database)
    add(database)
    promoted = add(database, promote=True)
    assert resolve(database) == (promoted, "exact")
    with database.read() as session:
        assert maps.get_map(session, promoted).aliases == ("default",)


def test_the_default_of_the_asked_revision_is_exact(database: Database) -> None:
    first = add(database, revision="r1")
    add(database, revision="r1")
    assert resolve(database, "r1") == (first, "exact")


def test_a_map_of_the_asked_revision_goes_before_the_default_of_another(database: Database) -> None:
    add(database, revision="r1")
    add(database, revision="r2")
    newest = add(database, revision="r2")
    assert resolve(database, "r2") == (newest, "exact")


def test_a_map_of_text_retrieval_serves_only_where_it_is_named_by_its_id(database: Database) -> None:
    text = add(database, kind="text-retrieval")
    with pytest.raises(MapNotFound):
        resolve(database)
    default, visual = add(database), add(database, revision="r2")
    assert resolve(database) == (default, "exact")
    of_revision = add(database, revision="r2", kind="text-retrieval")
    assert resolve(database, "r2") == (visual, "exact")
    with pytest.raises(InvalidParameter, match="promote"):
        add(database, kind="text-retrieval", promote=True)
    with database.write() as session:
        with pytest.raises(MapMismatch, match="text-retrieval"):
            maps.set_alias(session, text, "stable", by=None)
        assert maps.find_map(session, "m", of_revision, "r2")[0].id == of_revision


def test_another_revisions_default_is_better_than_none(database: Database) -> None:
    first = add(database, revision="r1")
    assert resolve(database, "r9") == (first, "revision")
    assert resolve(database, "r9", "default") == (first, "revision")


def test_an_alias_that_was_asked_for_is_taken_as_it_is(database: Database) -> None:
    first, second = add(database, revision="r1"), add(database, revision="r2")
    with database.write() as session:
        maps.set_alias(session, first, "stable", by=None)
    assert resolve(database, "r2", "stable") == (first, "revision")
    with database.write() as session:
        record = maps.set_alias(session, second, "stable", by=None)
    assert record.aliases == ("stable",)
    assert resolve(database, "r2", "stable") == (second, "exact")


@pytest.mark.parametrize("alias", [None, "stable"])
def test_no_map_is_said_so(database: Database, alias: str | None) -> None:
    with pytest.raises(MapNotFound):
        resolve(database, "r1", alias)


@pytest.mark.parametrize("map_id", ["", "x", "0" * 32, "\x00", "é" * 32])
def test_unknown_ids_are_not_found(database: Database, map_id: str) -> None:
    for ask in (maps.get_map, maps.get_scores, maps.get_standard_errors):
        with database.read() as session, pytest.raises(MapNotFound):
            ask(session, map_id)


def test_a_map_is_found_by_id_or_alias_of_its_model_only(database: Database) -> None:
    ours, other = add(database), add(database, "other")
    with database.read() as session:
        assert maps.find_map(session, "m", ours, "r1")[0].id == ours
        assert maps.find_map(session, "m", "default", "r2") == (maps.get_map(session, ours), "revision")
        with pytest.raises(MapNotFound):
            maps.find_map(session, "m", other)


def test_scores_come_back_to_the_bit(database: Database) -> None:
    map_id = add(database)
    with database.read() as session:
        record, scores = maps.get_map(session, map_id), maps.get_scores(session, map_id)
    assert scores.checksum() == record.checksum
    assert np.array_equal(scores.matrix, HeadScores(np.random.default_rng(0).random((2, 4)), 2).matrix)


def test_pages_of_a_list_meet_without_overlap(database: Database) -> None:
    ids = [add(database) for _ in range(5)]
    seen: list[str] = []
    cursor = None
    with database.read() as session:
        while True:
            page = maps.list_maps(session, model="m", limit=2, cursor=cursor)
            seen += [record.id for record in page.items]
            cursor = page.next_cursor
            if cursor is None:
                break
    assert seen == ids[::-1]


@pytest.mark.parametrize("cursor", ["", "x", "????", "é", "MjAyNA", "fHw=", "MDAwMS0wMS0wMVQwMDowMDowMHxhYQ"])
def test_made_up_cursors_are_refused(database: Database, cursor: str) -> None:
    with database.read() as session, pytest.raises(InvalidParameter, match="cursor"):
        maps.list_maps(session, cursor=cursor)


# ---- numbers


@pytest.mark.parametrize("deleted", [[2], [1], [1, 2], [2, 1]])
def test_a_deleted_maps_number_is_never_used_again(database: Database, deleted: list[int]) -> None:
    ids = [add(database, promote=False), add(database, promote=False)]
    add(database, "other")
    for version in deleted:
        with database.write() as session:
            maps.delete_map(session, ids[version - 1])
    with database.write() as session, pytest.raises(MapNotFound):
        maps.delete_map(session, ids[deleted[0] - 1])
    third = add(database, promote=False)
    with database.read() as session:
        assert maps.get_map(session, third).version == 3
