from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import httpx
import pytest

from headmap.errors import BodiesTooLarge, ImageTooLarge, InvalidImage
from headmap.http.receiving import RequestBytes, SharedBytes
from headmap.settings import Settings
from services.inference.intake.addresses import is_public
from services.inference.intake.fetching import ImageFetcher
from services.inference.intake.images import EncodedImage, ImageSource

SETTINGS = Settings(image_url_hosts=("img.example", "other.example:8443"), max_image_bytes=1000, image_url_seconds=0.5)
PUBLIC = "93.184.215.14"


def held(most: int = 2**20) -> RequestBytes:
    """For one request, of so many bytes."""
    return RequestBytes(SharedBytes(2 * most), "key a")


async def fetched(fetcher: ImageFetcher, url: str) -> bytes:
    (found,) = await fetcher.fetch_all([ImageSource(url, "images.0")], held())
    assert isinstance(found, EncodedImage)
    return found.data


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
            return await fetched(fetcher, url)
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
        *("192.0.0.1", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "240.0.0.1", "169.254.0.1"),
        *("::127.0.0.1", "::ffff:0:127.0.0.1", "::ffff:7f00:1", "fe80::1%eth0", "fec0::1", "100::1", "64:ff9b:1::1"),
        *("2001:0:1::1", "ff02::1", "2001:db8::1", "not an address"),
        *("192.0.0.8", "192.0.0.170", "192.88.99.1", "192.31.196.1", "192.52.193.1", "192.175.48.1", "3fff::1"),
        *("3fff:fff::1", "5f00::1", "2001:20::1", "2001:1ff::1", "2620:4f:8000::1", "::ffff:192.88.99.1"),
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
    for just_outside in ("192.0.1.1", "192.88.98.1", "192.88.100.1", "172.32.0.1", "2001:200::1", "3ffe:ffff::1"):
        assert is_public(just_outside)


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


@pytest.mark.parametrize("host", ["xn--a", "xn--", "xn--a.com", "xn--zzzzzz--", "a..b", "a" * 70, "\u00e4" * 60])
async def test_a_name_that_is_no_name_is_refused(host: str) -> None:
    """With the system's resolver, and even if the operator lists it."""
    fetcher = ImageFetcher(Settings(image_url_hosts=("img.example", host)))
    with pytest.raises(InvalidImage, match=r"^images\.0: "):
        await fetched(fetcher, f"http://{host}/")
    await fetcher.close()


async def test_what_a_host_sets_as_a_cookie_is_sent_to_nobody() -> None:
    net = Net(httpx.Response(200, headers={"set-cookie": "who=me"}, stream=httpx.ByteStream(b"picture")))
    fetcher = ImageFetcher(SETTINGS, resolver=net.resolve, transport=httpx.MockTransport(net.handle))
    for url in ("https://img.example/a.png", "https://img.example/b.png", "https://other.example:8443/a.png"):
        net.answer = httpx.Response(200, headers={"set-cookie": "who=me"}, stream=httpx.ByteStream(b"picture"))
        await fetched(fetcher, url)
    await fetcher.close()
    assert [request.headers.get("cookie") for request in net.requests] == [None, None, None]


async def test_all_pictures_of_a_request_have_one_deadline() -> None:
    asked = 0

    async def slowly(request: httpx.Request) -> httpx.Response:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0.15)
        return httpx.Response(200, stream=httpx.ByteStream(b"picture"))

    fetcher = ImageFetcher(SETTINGS, resolver=Net().resolve, transport=httpx.MockTransport(slowly))
    sources = [ImageSource("https://img.example/a.png", f"images.{number}") for number in range(16)]
    with pytest.raises(InvalidImage, match=r"not fetched within 0\.5 seconds"):
        await fetcher.fetch_all(sources, held())
    await fetcher.close()
    assert asked <= 4


class Endless(httpx.AsyncByteStream):
    """A body without an end, a kilobyte a piece."""

    def __init__(self) -> None:
        self.pieces = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            self.pieces += 1
            yield bytes(1000)


async def test_what_is_fetched_counts_among_the_bytes_of_all_requests() -> None:
    endless = Endless()
    net = Net(httpx.Response(200, stream=endless))
    settings = SETTINGS.model_copy(update={"max_image_bytes": 2**30})
    fetcher = ImageFetcher(settings, resolver=net.resolve, transport=httpx.MockTransport(net.handle))
    shared = SharedBytes(40_000)
    mine = RequestBytes(shared, "key a")
    with pytest.raises(BodiesTooLarge, match=r"^images\.0: "):
        await fetcher.fetch_all([ImageSource("https://img.example/a.png", "images.0")], mine)
    await fetcher.close()
    assert endless.pieces == 21  # half of all is the most that one caller holds
    mine.give_back()
    RequestBytes(shared, "key b").take(20_000)


# ---- over real sockets


class Inside(BaseHTTPRequestHandler):
    """A server on loopback whose first answer sends the caller on to what only it should reach."""

    asked: ClassVar[list[str]]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(302 if self.path == "/a.png" else 200)
        self.send_header("Location", f"http://127.0.0.1:{self.server.server_address[1]}/secret")
        self.end_headers()
        self.wfile.write(b"secret")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def inside() -> Iterator[tuple[int, list[str]]]:
    """Its port, and the paths it was asked for."""
    asked: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Own", (Inside,), {"asked": asked}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_address[1], asked
    server.shutdown()
    server.server_close()
    thread.join(10)


class Detour(httpx.AsyncBaseTransport):
    """The real transport, except that the one public address of the tests lies on loopback."""

    def __init__(self, port: int) -> None:
        self._real, self._port = httpx.AsyncHTTPTransport(), port

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.host == PUBLIC:
            request.url = request.url.copy_with(host="127.0.0.1", port=self._port)
        return await self._real.handle_async_request(request)

    async def aclose(self) -> None:
        await self._real.aclose()


async def test_a_redirect_to_the_inside_is_not_followed(inside: tuple[int, list[str]]) -> None:
    port, asked = inside
    fetcher = ImageFetcher(SETTINGS, resolver=Net().resolve, transport=Detour(port))
    with pytest.raises(InvalidImage, match="302"):
        await fetched(fetcher, "http://img.example/a.png")
    await fetcher.close()
    assert asked == ["/a.png"]


async def test_a_name_that_resolves_differently_a_moment_later_gains_nothing(inside: tuple[int, list[str]]) -> None:
    port, asked = inside
    answers = [[PUBLIC], ["127.0.0.1"], ["127.0.0.1"]]

    async def rebinding(host: str, port: int) -> Sequence[str]:
        return answers.pop(0)

    sent: list[str] = []

    async def handle(request: httpx.Request) -> httpx.Response:
        sent.append(request.url.host)
        return httpx.Response(200, stream=httpx.ByteStream(b"picture"))

    url = f"http://rebind.example:{port}/secret"
    settings = Settings(image_url_hosts=(f"rebind.example:{port}",))
    fetcher = ImageFetcher(settings, resolver=rebinding, transport=httpx.MockTransport(handle))
    assert await fetched(fetcher, url) == b"picture"
    assert (sent, len(answers)) == ([PUBLIC], 2)
    with pytest.raises(InvalidImage, match="public"):
        await fetched(fetcher, url)
    await fetcher.close()
    assert asked == []


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "127.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001", "0", "localhost"),
        *("[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:0:0:1]", "[::]", "127.0.0.1.", "LOCALHOST"),
        *("①②⑦.⓪.⓪.①", "127。0。0。1", "１２７.0.0.1"),
    ],
)
async def test_no_way_to_write_loopback_gets_there_even_if_it_is_allowed(
    inside: tuple[int, list[str]], host: str
) -> None:
    """The system's own resolver, which takes many of these for an address."""
    port, asked = inside
    bare = host.strip("[]")
    settings = Settings(
        image_url_hosts=(f"{bare}:{port}", f"{bare.lower()}:{port}", f"{host}:{port}", f"127.0.0.1:{port}")
    )
    fetcher = ImageFetcher(settings)
    with pytest.raises(InvalidImage):
        await fetched(fetcher, f"http://{host}:{port}/secret")
    await fetcher.close()
    assert asked == []
