"""The HTTP client of the command line. What goes wrong is one of `headmap.errors`, in one line and without the key."""

from __future__ import annotations

import json
import os
import re
import ssl
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import httpx
from pydantic import TypeAdapter, ValidationError

import headmap
from headmap.environment import check_secret, is_blank
from headmap.errors import (
    ClusterUnavailable,
    Forbidden,
    HeadmapError,
    InvalidParameter,
    Unauthorized,
    error_of,
)
from services.cli.common import URL

T = TypeVar("T")
Json = Mapping[str, Any]

KEY, KEY_FILE = "HEADMAP_KEY", "HEADMAP_KEY_FILE"
_GIVE_ONE = f"in {KEY}, or in a file that {KEY_FILE} names"
_TIMEOUT = httpx.Timeout(600, connect=10)  # an upload is checked, and an answer begins, before anything comes back
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_PAGE = 200


class Event(NamedTuple):
    """A server-sent event; `name` is empty for a plain message."""

    name: str
    data: str


class Client:
    """Calls one cluster. It follows no redirect, since that would take the key elsewhere. Close it after use."""

    def __init__(self, url: str, key: str | None, transport: httpx.BaseTransport | None = None) -> None:
        """`transport` stands in for the network in tests. Raises InvalidParameter for an address that is none."""
        self.url, self._key = check_address(url), key
        headers = [(b"User-Agent", f"headmap/{headmap.__version__}".encode())]
        if key is not None:
            headers.append((b"Authorization", b"Bearer " + key.encode()))
        self._http = httpx.Client(
            base_url=self.url,
            headers=headers,
            timeout=_TIMEOUT,
            transport=transport,
            trust_env=urlsplit(self.url).hostname not in _LOOPBACK,  # a proxy reaches another loopback
        )

    def close(self) -> None:
        self._http.close()

    def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Json | None = None,
        content: IO[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        also: int | None = None,
    ) -> httpx.Response:
        """The answer of a call that succeeded, or has the status `also`. `query` leaves out what is None.

        Raises HeadmapError: the service's own, or ClusterUnavailable.
        """
        with self._faults():
            answer = self._http.request(
                method,
                path,
                params={name: value for name, value in (query or {}).items() if value is not None},
                json=body,
                content=content,
                headers=headers,
            )
        if answer.status_code != also:
            self._check(answer)
        return answer

    def get(self, kind: type[T], path: str, /, **query: Any) -> T:
        return self.read(kind, self.call("GET", path, query=query))

    def items(self, kind: type[T], path: str, /, most: int | None = None, **query: Any) -> list[T]:
        """The items of a paged list, or its first `most`."""
        found: list[T] = []
        cursor = None
        while True:
            page = self.json(self.call("GET", path, query={**query, "limit": _PAGE, "cursor": cursor}))
            found += self.parse(list[kind], page.get("items"))  # type: ignore[valid-type]  # a type of types
            cursor = page.get("next_cursor")
            if cursor is None or (most is not None and len(found) >= most):
                return found[:most]

    def read(self, kind: type[T], answer: httpx.Response) -> T:
        return self.parse(kind, self.json(answer))

    def parse(self, kind: type[T], document: object) -> T:
        """`document` as a `kind`; more fields than that has are left out. Raises ClusterUnavailable."""
        try:
            return TypeAdapter(kind).validate_python(document)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "its answer"
            raise ClusterUnavailable(
                f"{self.url}: the answer cannot be read ({place}: {first['msg']}); it may be of another version than "
                f"{headmap.__version__}"
            ) from error

    def json(self, answer: httpx.Response) -> Any:
        """An object of JSON. Raises ClusterUnavailable for anything else, which no Headmap would answer."""
        try:
            document = answer.json()
        except ValueError:
            document = None
        if not isinstance(document, dict | list):
            raise self._stranger(answer)
        return document

    def events(self, method: str, path: str, body: Json | None = None) -> Iterator[Any]:
        """The JSON of server-sent events, as they come. Raises HeadmapError, for an `error` event the one it holds."""
        with self._faults(), self._http.stream(method, path, json=body) as answer:
            if not answer.is_success:
                answer.read()
            self._check(answer)
            if not answer.headers.get("content-type", "").startswith("text/event-stream"):
                raise self._stranger(answer)
            for event in _events(answer.iter_lines()):
                try:
                    document = json.loads(event.data)
                except ValueError:
                    raise self._stranger(answer) from None
                if event.name == "error":
                    raise self._error(document) if isinstance(document, dict) else self._stranger(answer)
                yield document

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """Turns what fails on the way into ClusterUnavailable."""
        try:
            yield
        except httpx.TimeoutException as error:
            raise ClusterUnavailable(f"{self.url}: no answer in time") from error
        except httpx.HTTPError as error:
            raise ClusterUnavailable(f"{self.url}: {_reason(error)}") from error
        except httpx.InvalidURL as error:
            raise InvalidParameter(f"{URL}: {error}", param=URL) from error

    def _check(self, answer: httpx.Response) -> None:
        if answer.is_success:
            return
        if answer.is_redirect:
            place = answer.headers.get("location", "elsewhere")
            raise ClusterUnavailable(f"{self.url}: redirects to {place}; give that address, if you trust it")
        try:
            document = answer.json()
        except ValueError:
            raise self._stranger(answer) from None
        raise self._error(document) if isinstance(document, dict) else self._stranger(answer)

    def _error(self, document: Json) -> HeadmapError:
        """The error of a problem document, or of OpenAI's form."""
        inner = document.get("error")
        told = inner if isinstance(inner, dict) else document
        detail = str(told.get("detail") or told.get("message") or "the server refused without a word")
        error = error_of(told.get("code"), detail)
        if isinstance(error, Unauthorized):
            if self._key is None:
                return Unauthorized(f"{self.url} asks for an API key; give one {_GIVE_ONE}")
            return Unauthorized(f"{self.url} does not know your API key; give another {_GIVE_ONE}")
        if isinstance(error, Forbidden):
            return Forbidden(f"{detail}; give another key {_GIVE_ONE}")
        return error

    def _stranger(self, answer: httpx.Response) -> ClusterUnavailable:
        kind = answer.headers.get("content-type", "no content type")
        return ClusterUnavailable(
            f"{self.url}: answers {answer.request.url.path} as no Headmap does (status {answer.status_code}, {kind}); "
            f"check {URL}"
        )


@contextmanager
def open_client(url: str) -> Iterator[Client]:
    """A client with the key of the environment. Raises InvalidParameter."""
    client = Client(url, find_key())
    try:
        yield client
    finally:
        client.close()


def check_address(url: str) -> str:
    """`url` without slashes at its end. Raises InvalidParameter, which shows no password."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        raise InvalidParameter(f"{URL}: cannot be read as an address", param=URL) from None
    if "@" in parts.netloc:
        raise InvalidParameter(f"{URL}: must hold no name and password; a key goes {_GIVE_ONE[3:]}", param=URL)
    if not usable or parts.query or parts.fragment or re.search(r"\s", url):
        raise InvalidParameter(f"{URL}: must be like http://HOST:8000 or https://HOST, got {url!r}", param=URL)
    return url.rstrip("/")


def find_key(variables: Mapping[str, str] = os.environ) -> str | None:
    """The API key that HEADMAP_KEY has, or its file, which nobody but its owner may read. Raises InvalidParameter."""
    key, path = variables.get(KEY, ""), variables.get(KEY_FILE, "")
    name = KEY
    if not is_blank(path):
        if not is_blank(key):
            raise InvalidParameter(f"{KEY} and {KEY_FILE} are both set; unset one of them", param=KEY)
        key, name = _content(Path(path)), f"{KEY_FILE}: the key in {path}"
    if is_blank(key):
        return None
    try:
        return check_secret(key.strip())
    except ValueError as error:
        raise InvalidParameter(f"{name}: {error}", param=KEY) from None


def _content(path: Path) -> str:
    try:
        if path.stat().st_mode & 0o077:
            raise InvalidParameter(
                f"{KEY_FILE}: others than its owner may use {path}; close it with: chmod 600 {path}", param=KEY_FILE
            )
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise InvalidParameter(f"{KEY_FILE}: cannot read {path}: {reason}", param=KEY_FILE) from error
    if is_blank(text):
        raise InvalidParameter(f"{KEY_FILE}: {path} is empty", param=KEY_FILE)
    return text


def _reason(error: httpx.HTTPError) -> str:
    """What failed on the way, and what may help."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted ({cause}); SSL_CERT_FILE may name a file with your authority's"
        if isinstance(cause, ssl.SSLError):
            return f"no TLS there ({cause}); is it http:// instead?"
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpx.ConnectError):
        return f"cannot be reached ({error})"
    if isinstance(error, httpx.RemoteProtocolError):
        return f"broke off, or speaks no HTTP ({error})"
    return f"the connection failed ({str(error) or type(error).__name__})"


def _events(lines: Iterable[str]) -> Iterator[Event]:
    """The events of a stream (HTML standard, section 9.2.6); comments and ids are left out."""
    name, data = "", []
    for line in lines:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "data":
            data.append(value)
        elif not line:
            if data:
                yield Event(name, "\n".join(data))
            name, data = "", []
