"""Keys in the registry: shown once, filed by digest, ended for good."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from headmap.errors import InvalidParameter, KeyNameTaken, KeyNotFound
from headmap.keys import ApiKey, digest_of, in_use, make_key
from headmap.registry.keys import KeyReader, create_key, read_keys, revoke_key
from headmap.registry.session import Database


def make(database: Database, name: str = "ci", **limits: int) -> tuple[ApiKey, str]:
    with database.write() as session:
        return create_key(session, name, **limits)


def test_a_key_is_found_again_by_its_digest_alone(database: Database) -> None:
    record, key = make(database, requests_per_minute=60, concurrent_requests=2)
    assert read_keys(database) == [record]
    assert in_use([record])[digest_of(key)] == record
    assert (record.requests_per_minute, record.concurrent_requests) == (60, 2)
    for wrong in ("", key[:-1], key + "x", key.upper(), record.id, record.digest.hex()):
        assert digest_of(wrong) not in in_use([record])


def test_nothing_of_the_key_itself_is_in_the_registry(database: Database) -> None:
    _, key = make(database)
    with database.read() as session:
        rows = session.execute(text("SELECT * FROM api_keys")).all()
    assert key.removeprefix("headmap-") not in repr(rows)


def test_keys_are_long_and_all_different() -> None:
    keys = {make_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(len(key) >= 50 and key.isascii() and key.isprintable() and " " not in key for key in keys)


@pytest.mark.parametrize("by", ["name", "id"])
def test_a_revoked_key_stays_on_record_and_frees_its_name(database: Database, by: str) -> None:
    record, _ = make(database)
    with database.write() as session:
        revoked = revoke_key(session, getattr(record, by))
    assert revoked.revoked_at is not None
    again, _ = make(database)
    assert [(key.id, key.revoked_at is None) for key in read_keys(database)] == [(record.id, False), (again.id, True)]


def test_a_revoked_or_unknown_key_cannot_be_revoked(database: Database) -> None:
    record, _ = make(database)
    with database.write() as session:
        revoke_key(session, "ci")
    for name in ("ci", record.id, "nobody", ""):
        with pytest.raises(KeyNotFound), database.write() as session:
            revoke_key(session, name)


def test_two_keys_in_use_have_two_names(database: Database) -> None:
    make(database)
    with pytest.raises(KeyNameTaken, match="'ci'"):
        make(database)
    assert len(read_keys(database)) == 1


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "x" * 65, "\x00", "\ud800"])
def test_names_can_be_read_by_people(database: Database, name: str) -> None:
    with pytest.raises(InvalidParameter, match="name"):
        make(database, name)


def test_keys_are_read_again_when_some_are_made_or_revoked(database: Database) -> None:
    now = [0.0]
    reader = KeyReader(lambda: database, lambda: now[0])
    assert reader() == ()
    make(database)
    first = reader()
    assert first == tuple(read_keys(database))
    assert reader() is first
    make(database, "other")
    assert len(reader()) == 2
    with database.write() as session:
        revoke_key(session, "ci")
    assert reader() == tuple(read_keys(database))


def test_a_key_that_is_committed_late_is_revoked_nonetheless(database: Database) -> None:
    """Its time of revocation is before one that has been read."""
    record, _ = make(database)
    make(database, "other")
    reader = KeyReader(lambda: database)
    with database.write() as session:
        revoke_key(session, "other")
    reader()
    with database.write() as session:
        revoke_key(session, "ci")
        session.execute(
            text("UPDATE api_keys SET revoked_at = (SELECT min(created_at) FROM api_keys) WHERE id = :id"),
            {"id": record.id},
        )
    assert not in_use(reader())


def test_rows_that_came_without_a_trace_count_a_minute_later(database: Database) -> None:
    now = [0.0]
    record, _ = make(database)
    reader = KeyReader(lambda: database, lambda: now[0])
    reader()
    other = make_key()
    with database.write() as session:
        session.execute(text("UPDATE api_keys SET digest = :digest"), {"digest": digest_of(other).hex()})
    assert [one.digest for one in reader()] == [record.digest]
    now[0] = 61
    assert [one.digest for one in reader()] == [digest_of(other)]
