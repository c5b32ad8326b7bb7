"""Conversations of /v1/responses that later requests may continue, in this process's memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headmap.errors import NotFound
from services.inference.intake.conversation import Conversation


class ResponseNotFound(NotFound):
    code, title = "response_not_found", "Response not found"


@dataclass(frozen=True)
class StoredResponse:
    """A response as it was answered, and the conversation up to its end. `session`: of the whole chain of responses."""

    document: Mapping[str, Any]
    conversation: Conversation
    session: str

    @property
    def nbytes(self) -> int:
        """An estimate: the texts and pictures as the client sent them."""
        return 1000 + self.conversation.characters + sum(len(image.text) for image in self.conversation.images)


class ResponseStore:
    """Keeps responses up to `capacity` bytes and drops the least recently used. Each caller sees only its own."""

    def __init__(self, capacity: int) -> None:
        self._capacity, self._held = capacity, 0
        self._kept: OrderedDict[tuple[str | None, str], StoredResponse] = OrderedDict()
        self._items: dict[tuple[str | None, str], str] = {}

    def keep(self, caller: str | None, response: StoredResponse) -> None:
        """Keep a response, unless it alone exceeds the capacity."""
        if response.nbytes > self._capacity:
            return
        identity = response.document["id"]
        self._kept[caller, identity] = response
        self._held += response.nbytes
        for item in response.document["output"]:
            self._items[caller, item["id"]] = identity
        while self._held > self._capacity:
            owner, name = next(iter(self._kept))
            self._drop(owner, name)

    def get(self, caller: str | None, identity: str, param: str | None = None) -> StoredResponse:
        """Raises ResponseNotFound."""
        found = self._kept.get((caller, identity))
        if found is None:
            field = "response" if param is None else param
            raise ResponseNotFound(f"{field}: no response {identity!r} is kept (any more)", param=param)
        self._kept.move_to_end((caller, identity))
        return found

    def item(self, caller: str | None, identity: str, param: str) -> dict[str, Any]:
        """An output item of a kept response. Raises ResponseNotFound."""
        owner = self._items.get((caller, identity))
        if owner is None:
            raise ResponseNotFound(f"{param}: no item {identity!r} is kept (any more)", param=param)
        items = self.get(caller, owner, param).document["output"]
        return dict(next(item for item in items if item["id"] == identity))

    def drop(self, caller: str | None, identity: str) -> StoredResponse:
        """Forget a response and return it. Raises ResponseNotFound."""
        found = self.get(caller, identity)
        self._drop(caller, identity)
        return found

    def _drop(self, caller: str | None, identity: str) -> None:
        gone = self._kept.pop((caller, identity))
        self._held -= gone.nbytes
        for item in gone.document["output"]:
            self._items.pop((caller, item["id"]), None)
