"""What the registry asks of PostgreSQL's connections: behind a pooler, few at rest, and the URL's own options."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor

import httpx
import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import InternalError
from sqlalchemy.orm import Session

from headmap.errors import RegistryUnavailable
from headmap.registry.keys import create_key, list_keys
from headmap.registry.migrations import MIGRATION_LOCK, check_revision, migrate
from headmap.registry.session import Database, open_database
from headmap.settings import Settings
from tests.integration.cluster import Cluster
from tests.integration.processes import Worker, wait_for
from tests.integration.servers import PgBouncer, Postgres, Redis

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


@pytest.fixture
def pooled(settings: Settings, postgres: Postgres, pgbouncer: PgBouncer) -> Settings:
    url = str(settings.database_url).replace(str(postgres.port), str(pgbouncer.port))
    return settings.model_copy(update={"database_url": url})


def limits_of(database: Database) -> dict[str, str]:
    names = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout")
    with database.read() as session:
        return {name: session.scalar(text(f"SHOW {name}")) for name in names}


def test_many_clients_share_few_connections_of_a_pooler(pooled: Settings) -> None:
    migrate(pooled)
    database = open_database(pooled)

    def work(number: int) -> None:
        for turn in range(6):  # past the count from which the driver would prepare a statement
            with database.write() as session:
                create_key(session, f"{number}-{turn}")
            with database.read() as session:
                list_keys(session)

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(work, range(12)))
    with database.read() as session:
        assert len(list_keys(session)) == 72
    database.close()


def test_a_job_runs_and_the_registry_migrates_down_and_up_through_a_pooler(pooled: Settings, redis: Redis) -> None:
    redis.flush()
    cluster = Cluster(pooled.model_copy(update={"broker_url": redis.url, "sweep_seconds": 0.5}))
    try:
        cluster.worker(pool="prefork")
        cluster.assert_succeeded(cluster.submit())
    finally:
        cluster.end()
    migrate(pooled, "base")
    migrate(pooled)


def test_limits_of_a_transaction_end_with_it(pooled: Settings) -> None:
    """The pooler gives the same server connection to others."""
    database = open_database(pooled)
    assert limits_of(database) == {
        "lock_timeout": "8s",
        "statement_timeout": "10s",
        "idle_in_transaction_session_timeout": "20s",
    }
    with database.write() as session:
        session.execute(text("SELECT 1"))
    with psycopg.connect(str(pooled.database_url), prepare_threshold=None) as other:
        assert other.execute("SHOW statement_timeout").fetchone() == ("0",)
    database.close()


def test_readers_write_nothing(database: Database) -> None:
    def add(session: Session) -> None:
        session.execute(text("CREATE TABLE t (a int)"))

    with database.read() as session, pytest.raises(InternalError, match="read-only"):
        add(session)
    with database.write() as session:
        add(session)


def test_options_of_the_url_count(settings: Settings) -> None:
    url = f"{settings.database_url}?application_name=mine&options=-c%20statement_timeout%3D7s%20-c%20work_mem%3D9MB"
    database = open_database(settings.model_copy(update={"database_url": url}))
    with database.read() as session:
        shown = [session.scalar(text(f"SHOW {name}")) for name in ("application_name", "statement_timeout", "work_mem")]
    assert shown == ["mine", "7s", "9MB"]
    database.close()


def test_a_statement_that_takes_too_long_is_ended_by_the_server(settings: Settings) -> None:
    database = open_database(settings.model_copy(update={"database_seconds": 0.2}))
    with pytest.raises(RegistryUnavailable, match="statement timeout"):
        database.patiently(lambda session: session.execute(text("SELECT pg_sleep(5)")), seconds=0)
    database.close()


def test_migrations_wait_for_one_another_longer_than_a_statement_may_take(settings: Settings) -> None:
    with psycopg.connect(str(settings.database_url)) as other, ThreadPoolExecutor(2) as pool:
        other.execute("SELECT pg_advisory_xact_lock(%s)", [MIGRATION_LOCK])
        waiting = [pool.submit(migrate, settings.model_copy(update={"database_seconds": 0.1})) for _ in range(2)]
        other.execute("SELECT pg_sleep(1)")
        assert not any(one.done() for one in waiting)
        other.commit()
        for one in waiting:
            one.result(60)
    check_revision(settings)


@pytest.mark.parametrize("pool", ["solo", "prefork"])
def test_a_worker_holds_one_connection_between_shards(cluster: Cluster, pool: str) -> None:
    name = f"w{uuid.uuid4().hex[:8]}"
    url = f"{cluster.settings.database_url}?application_name={name}"
    # the first sweep is the last one: a sweep borrows a connection
    worker = Worker(cluster.settings.model_copy(update={"database_url": url, "sweep_seconds": 600}), pool=pool)
    try:
        cluster.assert_succeeded(cluster.submit())
        assert httpx.get(f"{worker.url}/metrics", trust_env=False).status_code == 200
        with psycopg.connect(str(cluster.settings.database_url), autocommit=True) as connection:
            query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"

            def held() -> int:
                return int(connection.execute(query, [name]).fetchall()[0][0])

            wait_for(lambda: held() == 1, "only one is left")
    finally:
        worker.end()
