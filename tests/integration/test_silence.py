"""Servers that fall silent: nothing is refused, nothing is answered, and still everything ends and goes on later."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from headmap.errors import RegistryUnavailable
from headmap.http.keyring import KeyRing
from headmap.keys import digest_of
from headmap.registry.keys import KeyReader, create_key
from headmap.registry.migrations import migrate
from headmap.registry.session import open_database
from headmap.settings import DEMO_MODEL, Settings
from services.inference.maps import MapBook
from services.inference.policies import PolicyBook
from tests.integration.cluster import Cluster
from tests.integration.links import Cut, Link
from tests.integration.processes import Api, wait_for
from tests.integration.servers import CannotHave, Postgres, Redis
from tests.shared.jobs.fakes import INFO

pytestmark = [pytest.mark.integration, pytest.mark.timeout(150)]

PATIENCE = 20
"""Seconds after which a client gives up."""


@pytest.fixture(params=["frozen", "dropped"])
def link(request: pytest.FixtureRequest) -> Iterator[Callable[[int], Link]]:
    """Makes links to ports."""
    made: list[Link] = []
    cut: Cut = request.param

    def make(target: int) -> Link:
        try:
            made.append(Link(target, cut))
        except CannotHave as reason:
            pytest.skip(str(reason))
        return made[-1]

    yield make
    for one in made:
        one.end()


def through(link: Link, settings: Settings, postgres: Postgres) -> Settings:
    url = str(settings.database_url).replace(str(postgres.port), str(link.port))
    return settings.model_copy(update={"database_url": url, "database_seconds": 2})


@pytest.fixture
def registry(link: Callable[[int], Link], postgres: Postgres, settings: Settings) -> tuple[Link, Settings]:
    """A link to the test's database, and the settings of those who go that way."""
    migrate(settings)
    way = link(postgres.port)
    return way, through(way, settings, postgres)


@pytest.fixture
def apis() -> Iterator[Callable[[Settings], Api]]:
    started: list[Api] = []

    def start(settings: Settings) -> Api:
        started.append(Api(settings))
        wait_for(lambda: get(started[-1], "/health/live").status_code == 200, "it lives")
        return started[-1]

    yield start
    for one in started:
        one.end()


def get(api: Api, path: str) -> httpx.Response:
    try:
        return httpx.get(f"{api.url}{path}", timeout=PATIENCE, trust_env=False)
    except httpx.ConnectError:
        return httpx.Response(0)


def test_the_api_answers_503_is_not_ready_and_ends_while_postgres_is_silent(
    registry: tuple[Link, Settings], apis: Callable[[Settings], Api]
) -> None:
    way, settings = registry
    api = apis(settings)
    assert get(api, "/maps").status_code == 200
    way.cut()
    for _ in range(2):
        answer = get(api, "/maps")
        assert (answer.status_code, answer.json()["code"]) == (503, "registry_unavailable")
    assert get(api, "/health/ready").status_code == 503
    assert get(api, "/health/live").status_code == 200
    way.heal()
    wait_for(lambda: get(api, "/maps").status_code == 200, "it answers again")
    assert get(api, "/health/ready").status_code == 200
    way.cut()
    with httpx.Client(timeout=PATIENCE, trust_env=False) as client, pytest.raises(httpx.TimeoutException):
        client.get(f"{api.url}/maps", timeout=0.5)
    assert api.terminate() == 0


def test_a_statement_is_given_up_and_its_connection_not_used_again(registry: tuple[Link, Settings]) -> None:
    way, settings = registry
    database = open_database(settings)
    held: list[int] = []

    def fall_silent(session: Session) -> None:
        held.append(session.scalar(text("SELECT pg_backend_pid()")))
        way.cut()
        session.execute(text("SELECT 1"))

    with pytest.raises(RegistryUnavailable, match="no answer within 4 s"):
        database.patiently(fall_silent, seconds=0)
    way.heal()
    with database.write() as session:
        assert session.scalar(text("SELECT pg_backend_pid()")) not in held
    database.close()


async def test_what_inference_follows_is_away_while_postgres_is_silent(registry: tuple[Link, Settings]) -> None:
    way, settings = registry
    database = open_database(settings)
    with database.write() as session:
        _, key = create_key(session, "ci")
    maps = MapBook(database, INFO)
    policies = PolicyBook(database, INFO.name, maps)
    keys = KeyRing(settings.model_copy(update={"key_refresh_seconds": 1e-9}), KeyReader(lambda: database))
    assert (await keys.admit(key)).digest == digest_of(key)  # type: ignore[union-attr]
    await maps.refresh()
    assert maps.away is None
    way.cut()
    assert await keys.admit(key) is not None
    await maps.refresh()
    assert maps.away is not None
    await policies.refresh()
    way.heal()
    await maps.refresh()
    assert maps.away is None
    database.close()


def test_a_worker_goes_on_after_postgres_was_silent(registry: tuple[Link, Settings], redis: Redis) -> None:
    way, settings = registry
    redis.flush()
    values = {"broker_url": redis.url, "sweep_seconds": 0.5, "max_attempts": 20}
    cluster = Cluster(settings.model_copy(update=values))
    try:
        cluster.worker(pause=0.2)
        job = cluster.submit()
        cluster.wait_until_running(job, pages=2)
        way.cut()
        with pytest.raises(RegistryUnavailable):
            cluster.job(job)
        way.heal()
        cluster.assert_succeeded(job)
    finally:
        cluster.end()


def test_jobs_are_taken_and_done_although_redis_falls_silent(
    link: Callable[[int], Link], settings: Settings, redis: Redis, apis: Callable[[Settings], Api]
) -> None:
    """Longer than a read waits, so that the worker has to connect anew."""
    redis.flush()
    way = link(redis.port)
    url = redis.url.replace(str(redis.port), str(way.port))
    values = {"broker_url": url, "rate_limit_url": url, "sweep_seconds": 0.5, "max_attempts": 20}
    cluster = Cluster(settings.model_copy(update=values))
    api = apis(cluster.settings)
    try:
        cluster.worker(pause=0.2)
        job = cluster.submit()
        cluster.wait_until_running(job)
        way.cut()
        body = {"model": DEMO_MODEL, "dataset": "synthetic", "pages": 4}
        answer = httpx.post(f"{api.url}/score", json=body, timeout=PATIENCE, trust_env=False)
        assert answer.status_code == 202, answer.text
        assert get(api, "/health/ready").status_code == 200
        way.heal()
        cluster.assert_succeeded(job)
        wait_for(lambda: cluster.job(answer.json()["id"]).state.ended, "the other job's end")
    finally:
        cluster.end()
