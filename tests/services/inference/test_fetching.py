from __future__ import annotations

import asyncio
from collections.abc import Sequence

import httpx
import pytest

from headmap.errors import ImageTooLarge, InvalidImage
from headmap.settings import Settings
from services.inference.fetching import ImageFetcher, is_public
from services.inference.images import ImageSource

SETTINGS = Settings(image_url_hosts=("img.example", "other.example:8443"), max_image_bytes=1000, image_url_seconds=0.5)
PUBLIC = "93.184.215.14"


class Net:
    """A resolver and a transport: `addresses` are what every name resolves to, `requests` what was sent where."""

    def __init__(self, answer: httpx.Response | None = None, addresses: Sequence[str] = (PUBLIC,)) -> None:
        self.answer = answer or httpx.Response(200, stream=httpx.ByteStream(b"picture"))
        self.addresses = addresses
        self.requests: list[httpx.Request] = []
        self.delay = 0.0

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        return self.addresses

    async def handle(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        await asyncio.sleep(self.delay)
        return self.answer

    async def fetch(self, url: str, settings: Settings = SETTINGS) -> bytes:
        fetcher = ImageFetcher(settings, resolver=self.resolve, transport=httpx.MockTransport(self.handle))
        try:
            return (await fetcher.fetch(ImageSource(url, "images.0"))).data
        finally:
            await fetcher.close()


async def test_the_checked_address_is_connected_to_under_the_hosts_name() -> None:
    net = Net()
    assert await net.fetch("https://img.example/a.png?x=1") == b"picture"
    (request,) = net.requests
    assert str(request.url) == f"https://{PUBLIC}/a.png?x=1"
    assert request.headers["host"] == "img.example"
    assert request.extensions["sni_hostname"] == "img.example"


async def test_a_port_must_be_listed_with_its_host() -> None:
    net = Net()
    assert await net.fetch("https://other.example:8443/a.png") == b"picture"
    assert net.requests[0].headers["host"] == "other.example:8443"


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/a.png",
        "https://img.example.evil.example/a.png",
        "https://img.example:8443/a.png",
        "https://other.example/a.png",
        "https://user:pass@img.example/a.png",
        "https://img.example@evil.example/a.png",
        "http://127.0.0.1/a.png",
        "http://2130706433/a.png",
        "http://0x7f.1/a.png",
        "http://[::1]/a.png",
        "http://[::ffff:127.0.0.1]/a.png",
        "http:///a.png",
        "http://",
        "https://img.example\\@evil.example/a.png",
        "https://img.example:99999999/",
    ],
)
async def test_hosts_that_are_not_listed_are_not_even_resolved(url: str) -> None:
    net = Net()
    with pytest.raises(InvalidImage):
        await net.fetch(url)
    assert not net.requests


async def test_urls_are_off_by_default() -> None:
    with pytest.raises(InvalidImage, match="image URLs are off"):
        await Net().fetch("https://img.example/a.png", Settings())


@pytest.mark.parametrize(
    "address",
    [
        *(
            "127.0.0.1",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
        ),
        *("255.255.255.255", "::1", "::", "fe80::1", "fc00::1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::"),
        *("2001:0:1::1", "ff02::1", "2001:db8::1", "not an address"),
    ],
)
async def test_names_that_resolve_to_addresses_that_are_not_public_are_refused(address: str) -> None:
    assert not is_public(address)
    net = Net(addresses=[PUBLIC, address])
    with pytest.raises(InvalidImage, match="public"):
        await net.fetch("https://img.example/a.png")
    assert not net.requests


def test_public_addresses_are_public() -> None:
    assert is_public(PUBLIC)
    assert is_public("2606:2800:21f:cb07:6820:80da:af6b:8b2c")


@pytest.mark.parametrize("status", [301, 302, 307, 404, 500])
async def test_redirects_and_errors_are_refused(status: int) -> None:
    net = Net(httpx.Response(status, headers={"location": "http://127.0.0.1/"}))
    with pytest.raises(InvalidImage, match=str(status)):
        await net.fetch("https://img.example/a.png")
    assert len(net.requests) == 1


async def test_a_body_that_is_too_large_is_cut_off() -> None:
    with pytest.raises(ImageTooLarge):
        await Net(httpx.Response(200, stream=httpx.ByteStream(bytes(1001)))).fetch("https://img.example/a.png")


async def test_a_compressed_body_is_refused() -> None:
    answer = httpx.Response(200, headers={"content-encoding": "gzip"}, stream=httpx.ByteStream(b"zip"))
    with pytest.raises(InvalidImage, match="compressed"):
        await Net(answer).fetch("https://img.example/a.png")


async def test_a_slow_host_is_given_up() -> None:
    net = Net()
    net.delay = 5
    with pytest.raises(InvalidImage, match=r"within 0\.5 seconds"):
        await net.fetch("https://img.example/a.png")


async def test_a_name_that_does_not_resolve_is_refused() -> None:
    class NoName(Net):
        async def resolve(self, host: str, port: int) -> Sequence[str]:
            raise OSError("no such name")

    with pytest.raises(InvalidImage, match="cannot be fetched"):
        await NoName().fetch("https://img.example/a.png")
