"""Fetch pictures by URL: from allow-listed hosts only, and never from an address that is not public.

The connection goes to the address that was checked, so a name that resolves differently later gains nothing.
Redirects are refused, and proxies of the environment are not used.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx

from headmap.errors import InvalidImage
from headmap.http.receiving import RequestBytes
from headmap.settings import Settings
from services.inference.intake.addresses import is_public
from services.inference.intake.images import EncodedImage, ImageSource, too_many_bytes

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
"""(host, port) -> addresses. Raises OSError where there are none."""

_PORTS = {"http": 80, "https": 443}


async def resolve(host: str, port: int) -> Sequence[str]:
    """The system's resolver, off the event loop."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


class ImageFetcher:
    """Fetches under the settings' limits. `resolver` and `transport` stand in for the network in tests."""

    def __init__(
        self, settings: Settings, *, resolver: Resolver = resolve, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._settings = settings
        self._hosts = {host.lower() for host in settings.image_url_hosts}
        self._resolve = resolver
        self._client = httpx.AsyncClient(
            transport=transport,
            trust_env=False,
            follow_redirects=False,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # what one host sets is sent to none
            timeout=settings.image_url_seconds,
            limits=httpx.Limits(max_keepalive_connections=0),  # kept by address, one would serve another host's name
            headers={"User-Agent": "headmap", "Accept": "image/*", "Accept-Encoding": "identity"},
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def fetch_all(self, sources: Sequence[ImageSource], held: RequestBytes) -> list[ImageSource | EncodedImage]:
        """`sources` of one request, those that are URLs fetched. Their bytes are taken from `held` as they come.

        Raises ImageTooLarge; InvalidImage for a URL that is not allowed or cannot be fetched, also where not all are
        within `settings.image_url_seconds`; TooManyRequests where there is no memory for them.
        """
        deadline = asyncio.get_running_loop().time() + self._settings.image_url_seconds
        return [await self._fetch(one, held, deadline) if one.is_url else one for one in sources]

    async def _fetch(self, source: ImageSource, held: RequestBytes, deadline: float) -> EncodedImage:
        name, field = source.name, source.field
        try:
            async with asyncio.timeout_at(deadline):
                data = await self._get(self._allowed(source), source, held)
        except TimeoutError as error:
            seconds = f"{self._settings.image_url_seconds:g} seconds, the time of all pictures of a request"
            raise InvalidImage(f"{name}: not fetched within {seconds}", param=field) from error
        except (httpx.HTTPError, OSError, UnicodeError) as error:
            raise InvalidImage(f"{name}: cannot be fetched ({type(error).__name__})", param=field) from error
        return EncodedImage(data, field, source.number)

    def _allowed(self, source: ImageSource) -> httpx.URL:
        name, field = source.name, source.field
        try:
            url = httpx.URL(source.text)
            host = url.host  # decoded here: names in Punycode may be wrong
        except (httpx.InvalidURL, ValueError) as error:  # UnicodeError, too
            raise InvalidImage(f"{name}: is not a URL", param=field) from error
        if not self._hosts:
            raise InvalidImage(f"{name}: image URLs are off here; send the picture as a data: URL", param=field)
        port = url.port or _PORTS.get(url.scheme, 0)
        listed = host.lower() in self._hosts and port == _PORTS.get(url.scheme)
        if url.scheme not in _PORTS or url.userinfo or not (listed or f"{host.lower()}:{port}" in self._hosts):
            raise InvalidImage(f"{name}: pictures from {_place(url)!r} are not allowed here", param=field)
        return url

    async def _get(self, url: httpx.URL, source: ImageSource, held: RequestBytes) -> bytes:
        port = url.port or _PORTS[url.scheme]
        addresses = await self._resolve(url.host, port)
        if not addresses or not all(is_public(address) for address in addresses):
            raise InvalidImage(
                f"{source.name}: {url.host!r} does not resolve to public addresses only", param=source.field
            )
        request = self._client.build_request(
            "GET",
            url.copy_with(host=addresses[0], port=port),
            headers={"Host": url.netloc.decode("ascii")},
            extensions={"sni_hostname": url.host},
        )
        response = await self._client.send(request, stream=True)
        try:
            return await self._read(response, source, held)
        finally:
            await response.aclose()

    async def _read(self, response: httpx.Response, source: ImageSource, held: RequestBytes) -> bytes:
        name, field = source.name, source.field
        if response.status_code != 200:
            raise InvalidImage(f"{name}: its host answered {response.status_code}", param=field)
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise InvalidImage(f"{name}: its host sent a compressed body", param=field)
        data = bytearray()
        async for chunk in response.aiter_raw():
            if len(data) + len(chunk) > self._settings.max_image_bytes:
                raise too_many_bytes(source, self._settings.max_image_bytes)
            held.take(len(chunk), field)
            data += chunk
        return bytes(data)


def _place(url: httpx.URL) -> str:
    return f"{url.scheme}://{url.host}" + (f":{url.port}" if url.port else "")
