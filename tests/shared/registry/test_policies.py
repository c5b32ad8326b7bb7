"""Policies: versions that never change, names that nothing else can mean, and the maps they hold."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headmap.errors import (
    InvalidParameter,
    MapInUse,
    MapMismatch,
    MapNotFound,
    PolicyChanged,
    PolicyNotFound,
)
from headmap.kvcache.budget_names import names_a_budget
from headmap.kvcache.methods import METHODS
from headmap.registry import aliases, maps, policies
from headmap.registry.session import Database
from tests.shared.registry.test_maps import add

KV = {"method": "snapkv", "ratio": 0.2}


def put(database: Database, name: str = "documents", model: str = "m", **more: Any) -> policies.PolicyRecord:
    kv = more.pop("kv", KV)
    with database.write() as session:
        return policies.put_policy(session, model, name, kv, **{"by": None, **more})[0]


def delete(database: Database, name: str = "documents", **more: Any) -> None:
    with database.write() as session:
        policies.delete_policy(session, "m", name, **{"by": None, **more})


def newest(database: Database, name: str = "documents", model: str = "m") -> policies.PolicyRecord:
    with database.read() as session:
        return policies.get_policy(session, model, name)


def versions(database: Database, **more: Any) -> list[tuple[int, dict[str, Any] | None, str | None]]:
    with database.read() as session:
        page = policies.policy_history(session, "m", "documents", **more)
    return [(one.version, one.kv, one.created_by) for one in page.items]


def test_every_write_is_a_version_and_the_name_is_the_newest(database: Database) -> None:
    put(database, by="key ops", evaluation_id="e")
    put(database, kv={"method": "full"}, by="cli jo")
    put(database, model="other")
    assert newest(database).kv == {"method": "full"}
    assert newest(database, model="other").version == 1
    assert versions(database) == [(2, {"method": "full"}, "cli jo"), (1, KV, "key ops")]
    with database.read() as session:
        assert policies.policy_history(session, "m", "documents").items[1].evaluation_id == "e"


def test_a_deletion_ends_the_name_and_no_number_is_given_twice(database: Database) -> None:
    put(database)
    delete(database, by="key ops")
    with pytest.raises(PolicyNotFound, match="documents"):
        newest(database)
    with pytest.raises(PolicyNotFound):
        delete(database)
    assert put(database).version == 3
    assert versions(database) == [(3, KV, None), (2, None, "key ops"), (1, KV, None)]


def test_a_change_of_what_is_no_longer_there_is_refused(database: Database) -> None:
    with pytest.raises(PolicyChanged, match="there is none"):
        put(database, expected=frozenset("*"))
    put(database, absent=True)
    with pytest.raises(PolicyChanged, match="version 1"):
        put(database, absent=True)
    assert put(database, expected=frozenset("1")).version == 2
    for late in (put, delete):
        with pytest.raises(PolicyChanged, match="version 2"):
            late(database, expected=frozenset("1"))
    delete(database, expected=frozenset("*"))


def test_writers_at_once_make_a_version_each(database: Database) -> None:
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda number: put(database, kv=KV | {"window": number}).version, range(8)))
    assert sorted(made) == list(range(1, 9))
    assert newest(database).version == 8


def test_lists_and_histories_page_without_overlap(database: Database) -> None:
    for number in range(5):
        put(database, f"p{number}")
    put(database, "elsewhere", model="other")
    told: list[str] = []
    cursor = None
    while True:
        with database.read() as session:
            page = policies.list_policies(session, model="m", limit=2, cursor=cursor)
        told += [one.name for one in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert told == [f"p{number}" for number in reversed(range(5))]
    with database.read() as session:
        assert len(policies.list_policies(session).items) == 6
        with pytest.raises(PolicyNotFound):
            policies.policy_history(session, "m", "never")


def test_a_map_is_held_by_the_policy_that_names_its_id_until_the_policy_lets_go(database: Database) -> None:
    add(database)
    held = add(database)
    put(database, kv=KV | {"method": "sparsemm", "map": held})
    with database.write() as session, pytest.raises(MapInUse, match="policy documents"):
        maps.delete_map(session, held)
    put(database)
    with database.write() as session:
        maps.delete_map(session, held)
    assert versions(database)[-1][1] == KV | {"method": "sparsemm", "map": held}


def test_a_policy_that_names_an_alias_holds_no_map(database: Database) -> None:
    add(database)
    other = add(database)
    with database.write() as session:
        maps.set_alias(session, other, "stable", by=None)
    put(database, kv=KV | {"method": "sparsemm", "map": "stable"})
    with database.write() as session:
        aliases.remove(session, "m", "stable", other, by=None)
        maps.delete_map(session, other)


@pytest.mark.parametrize("name", ["nope", "0" * 32, "", "a" * 65, "a\x00", "ünder"])
def test_a_map_that_is_not_there_is_refused(database: Database, name: str) -> None:
    with pytest.raises(MapNotFound) as refused:
        put(database, kv=KV | {"map": name})
    assert refused.value.param == "kv.map"


def test_a_map_of_another_model_is_refused(database: Database) -> None:
    with pytest.raises(MapMismatch) as refused:
        put(database, model="other", kv=KV | {"map": add(database)})
    assert refused.value.param == "kv.map"


@pytest.mark.parametrize(
    "name", ["", "-a", "a/b", "a@b", "a b", "a\n", "a" * 65, "history", "full", "sparsemm", "snapkv-0.1", "h2o-0.2"]
)
def test_a_name_that_means_something_else_is_refused(database: Database, name: str) -> None:
    with pytest.raises(InvalidParameter) as refused:
        put(database, name)
    assert refused.value.param == "policy"


@given(st.sampled_from(sorted(METHODS)), st.floats(allow_nan=True) | st.integers() | st.text(max_size=8))
def test_no_policy_can_hide_a_budget(method: str, ratio: object) -> None:
    for name in (method, f"{method}-{ratio}"):
        with pytest.raises(InvalidParameter):
            policies.check_policy_name(name)


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True))
def test_every_other_name_is_free(name: str) -> None:
    if names_a_budget(name) or name in policies.RESERVED:
        return
    assert policies.check_policy_name(name) == name
