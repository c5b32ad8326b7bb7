"""Fetch pictures by URL: from allow-listed hosts only, and never from an address that is not public.

The connection goes to the address that was checked, so a name that resolves differently later gains nothing.
Redirects are refused, and proxies of the environment are not used.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence

import httpx

from headmap.errors import InvalidImage
from headmap.settings import Settings
from services.inference.intake.images import EncodedImage, ImageSource, too_many_bytes

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
"""(host, port) -> addresses. Raises OSError where there are none."""

_PORTS = {"http": 80, "https": 443}
_PUBLIC_V6 = ipaddress.ip_network("2000::/3")
# Addresses that carry an IPv4 address inside: Teredo and 6to4
_TUNNELS = (ipaddress.ip_network("2001::/32"), ipaddress.ip_network("2002::/16"))


async def resolve(host: str, port: int) -> Sequence[str]:
    """The system's resolver, off the event loop."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


def is_public(address: str) -> bool:
    """Whether `address` is on the public internet: not private, loopback, link-local, mapped or tunnelled."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return is_public(str(parsed.ipv4_mapped))
        if parsed not in _PUBLIC_V6 or any(parsed in network for network in _TUNNELS):
            return False
    return parsed.is_global and not (parsed.is_multicast or parsed.is_reserved)


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
            timeout=settings.image_url_seconds,
            headers={"User-Agent": "headmap", "Accept": "image/*", "Accept-Encoding": "identity"},
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def fetch(self, source: ImageSource) -> EncodedImage:
        """Raises ImageTooLarge, and InvalidImage for a URL that is not allowed or cannot be fetched."""
        name, field = source.name, source.field
        try:
            async with asyncio.timeout(self._settings.image_url_seconds):
                return EncodedImage(await self._fetch(self._allowed(source), source), field, source.number)
        except TimeoutError as error:
            seconds = self._settings.image_url_seconds
            raise InvalidImage(f"{name}: not fetched within {seconds:g} seconds", param=field) from error
        except (httpx.HTTPError, OSError) as error:
            raise InvalidImage(f"{name}: cannot be fetched ({type(error).__name__})", param=field) from error

    def _allowed(self, source: ImageSource) -> httpx.URL:
        name, field = source.name, source.field
        try:
            url = httpx.URL(source.text)
        except (httpx.InvalidURL, ValueError) as error:
            raise InvalidImage(f"{name}: is not a URL", param=field) from error
        if not self._hosts:
            raise InvalidImage(f"{name}: image URLs are off here; send the picture as a data: URL", param=field)
        port = url.port or _PORTS.get(url.scheme, 0)
        listed = url.host.lower() in self._hosts and port == _PORTS.get(url.scheme)
        if url.scheme not in _PORTS or url.userinfo or not (listed or f"{url.host.lower()}:{port}" in self._hosts):
            raise InvalidImage(f"{name}: pictures from {_place(url)!r} are not allowed here", param=field)
        return url

    async def _fetch(self, url: httpx.URL, source: ImageSource) -> bytes:
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
            return await self._read(response, source)
        finally:
            await response.aclose()

    async def _read(self, response: httpx.Response, source: ImageSource) -> bytes:
        name, field = source.name, source.field
        if response.status_code != 200:
            raise InvalidImage(f"{name}: its host answered {response.status_code}", param=field)
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise InvalidImage(f"{name}: its host sent a compressed body", param=field)
        data = bytearray()
        async for chunk in response.aiter_raw():
            data += chunk
            if len(data) > self._settings.max_image_bytes:
                raise too_many_bytes(source, self._settings.max_image_bytes)
        return bytes(data)


def _place(url: httpx.URL) -> str:
    return f"{url.scheme}://{url.host}" + (f":{url.port}" if url.port else "")
