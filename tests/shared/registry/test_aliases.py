"""Aliases: who moved them, moves that must not be lost, and maps that may be deleted."""

from __future__ import annotations

import pytest

from headmap.errors import AliasMoved, AliasNotFound, MapInUse, MapNotFound
from headmap.registry import aliases, maps
from headmap.registry.session import Database
from tests.shared.registry.test_maps import add, resolve


def moves(database: Database, **asked: object) -> list[tuple[str, str | None, str | None, str | None]]:
    with database.read() as session:
        found = aliases.history(session, "m", **asked).items  # type: ignore[arg-type]  # limit, alias, cursor
    return [(move.alias, move.previous, move.map_id, move.moved_by) for move in found]


def test_every_move_is_told_newest_first(database: Database) -> None:
    first, second = add(database), add(database)
    with database.write() as session:
        maps.set_alias(session, second, "default", by="key ops")
        maps.set_alias(session, second, "stable", by="cli jo")
        aliases.remove(session, "m", "stable", second, by="key ops")
    assert moves(database) == [
        ("stable", second, None, "key ops"),
        ("stable", None, second, "cli jo"),
        ("default", first, second, "key ops"),
        ("default", None, first, None),
    ]
    assert moves(database, alias="default", limit=1) == [("default", first, second, "key ops")]


def test_pages_of_a_history_meet_without_overlap(database: Database) -> None:
    ids = [add(database), add(database)]
    for number in range(6):
        with database.write() as session:
            maps.set_alias(session, ids[number % 2], "stable", by=f"key {number}")
    told, cursor = [], None
    while True:
        with database.read() as session:
            page = aliases.history(session, "m", limit=3, cursor=cursor)
        told += [move.moved_by for move in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert told == [*(f"key {number}" for number in reversed(range(6))), None]


def test_pointing_where_it_points_already_is_no_move(database: Database) -> None:
    first = add(database)
    with database.write() as session:
        maps.set_alias(session, first, "default", by="key ops")
    assert len(moves(database)) == 1


def test_a_move_from_where_it_is_no_longer_is_refused(database: Database) -> None:
    first, second, third = add(database), add(database), add(database)
    with database.write() as session:
        maps.set_alias(session, second, "default", by=None, expected=frozenset([first]))
    with database.write() as session, pytest.raises(AliasMoved, match=second):
        maps.set_alias(session, third, "default", by=None, expected=frozenset([first]))
    with database.write() as session, pytest.raises(AliasMoved, match="there is none"):
        maps.set_alias(session, third, "stable", by=None, expected=frozenset("*"))
    with database.write() as session, pytest.raises(AliasMoved):
        aliases.remove(session, "m", "default", second, by=None, expected=frozenset([first]))
    assert resolve(database)[0] == second


def test_only_the_map_that_an_alias_points_at_can_lose_it(database: Database) -> None:
    first, second = add(database), add(database)
    with database.write() as session, pytest.raises(AliasNotFound, match=first):
        aliases.remove(session, "m", "default", second, by=None)
    with database.write() as session:
        aliases.remove(session, "m", "default", first, by=None)
    with pytest.raises(MapNotFound):
        resolve(database)


def test_a_map_that_an_alias_points_at_stays(database: Database) -> None:
    first, second = add(database), add(database)
    with database.write() as session, pytest.raises(MapInUse, match="default"):
        maps.delete_map(session, first)
    with database.write() as session:
        maps.delete_map(session, second)
    with database.read() as session, pytest.raises(MapNotFound):
        maps.get_map(session, second)
    with database.write() as session, pytest.raises(MapNotFound):
        maps.delete_map(session, second)


def test_a_version_is_not_given_twice_while_a_later_one_stands(database: Database) -> None:
    add(database)
    second, third = add(database), add(database)
    with database.write() as session:
        maps.delete_map(session, second)
    fourth = add(database)
    with database.read() as session:
        assert maps.get_map(session, third).version == 3
        assert maps.get_map(session, fourth).version == 4


def test_tags_and_notes_are_replaced_and_change_nothing_else(database: Database) -> None:
    first = add(database)
    with database.write() as session:
        before = maps.get_map(session, first)
        maps.annotate_map(session, first, {"tags": ["receipts", "été"], "notes": "read twice"})
        after = maps.annotate_map(session, first, {"notes": None})
    assert (after.tags, after.notes, after.checksum) == (["receipts", "été"], None, before.checksum)
