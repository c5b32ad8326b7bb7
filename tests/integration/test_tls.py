"""Redis over TLS: nobody's certificate is believed unless the URL says so, as broker and where requests are counted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from headmap.http.limits import KeyLimits
from headmap.jobs.celery_app import CeleryBroker, create_celery
from headmap.jobs.queues import JobQueue
from headmap.keys import ApiKey
from headmap.settings import Settings
from tests.integration.servers import CannotHave, Redis

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def server() -> Iterator[Redis]:
    try:
        started = Redis(tls=True)
    except CannotHave as reason:
        pytest.skip(str(reason))
    started.start()
    yield started
    started.remove()


def waiting(url: str) -> int:
    lengths = CeleryBroker(create_celery(Settings(broker_url=url))).waiting([JobQueue("m", "r")])
    return sum(lengths.values())


async def counted(url: str, caplog: pytest.LogCaptureFixture) -> bool:
    """Whether a request was counted there, and not in this process."""
    caplog.clear()
    await KeyLimits(Settings(key_requests_per_minute=3, rate_limit_url=url)).enter(ApiKey("k", "ci", b""))
    return "Redis does not answer" not in caplog.text


async def test_a_certificate_of_the_named_authority_is_believed(
    server: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    assert waiting(server.url) == 0
    assert await counted(server.url, caplog)


async def test_another_certificate_is_not(server: Redis, caplog: pytest.LogCaptureFixture) -> None:
    url = server.url.partition("?")[0]
    for urls in (url, f"{url};{url}"):
        with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
            waiting(urls)
    assert not await counted(url, caplog)


async def test_nor_one_for_another_name(server: Redis, caplog: pytest.LogCaptureFixture) -> None:
    url = server.url.replace("127.0.0.1", "localhost")
    with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
        waiting(url)
    assert not await counted(url, caplog)
    assert waiting(f"{url}&ssl_check_hostname=false") == 0
    assert await counted(f"{url}&ssl_check_hostname=false", caplog)


async def test_unless_the_url_says_so(server: Redis, caplog: pytest.LogCaptureFixture) -> None:
    url = f"{server.url.partition('?')[0]}?ssl_cert_reqs=none"
    assert waiting(url) == 0
    assert await counted(url, caplog)
