"""The seam between the HTTP service and what runs models: two small interfaces, and the real thing behind them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image

from headmap.engine.messages import EngineRequest, OnEvent
from headmap.engine.sampling.grammar import Grammars
from headmap.engine.vocabulary import Vocabulary, read_vocabulary
from headmap.families.base import PreparedPrompt
from headmap.models import ModelInfo
from headmap.settings import Settings
from services.inference.maps import MapBook


class PromptMaker(Protocol):
    """What the service needs of a LoadedModel. It is called from several threads."""

    def prepare(self, messages: Sequence[dict[str, Any]], images: Sequence[Image.Image]) -> PreparedPrompt: ...
    def prepare_text(self, prompt: str) -> PreparedPrompt: ...


class Stats(Protocol):
    """A moment of an engine. KV bytes: what running requests reserve, and all there is; beside them, the sessions'."""

    @property
    def alive(self) -> bool: ...
    @property
    def running(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    @property
    def kv_reserved_bytes(self) -> int: ...
    @property
    def kv_capacity_bytes(self) -> int: ...
    @property
    def session_bytes(self) -> int: ...


class EngineLike(Protocol):
    """What the service needs of an Engine; a fake stands here in tests."""

    def start(self) -> None: ...
    def stop(self, timeout: float) -> None: ...
    def submit(self, request: EngineRequest, on_event: OnEvent) -> None: ...
    def cancel(self, request_id: str) -> None: ...
    def drop_session(self, key: Hashable) -> bool: ...
    def stats(self) -> Stats: ...


@dataclass(frozen=True)
class OpenedModel:
    """A model and its engine, not started yet. `longest_token` is the characters of the vocabulary's longest entry."""

    prompts: PromptMaker
    engine: EngineLike
    device: str
    dtype: str
    longest_token: int
    eos_token_ids: frozenset[int]
    vocabulary: Vocabulary
    grammars: Grammars


@dataclass(frozen=True)
class ServedModel:
    """A model that is open and the maps it is served with."""

    info: ModelInfo
    opened: OpenedModel
    maps: MapBook


OpenModel = Callable[[ModelInfo, Settings], OpenedModel]


def open_model(info: ModelInfo, settings: Settings) -> OpenedModel:
    """Load a model and make its engine. Raises UnsupportedModel."""
    from headmap.engine.engine import Engine
    from headmap.families.loading import load_model

    loaded = load_model(info, device=settings.device, dtype=settings.dtype)
    vocabulary = read_vocabulary(loaded.tokenizer)
    return OpenedModel(
        prompts=loaded,
        engine=Engine(loaded, settings),
        device=str(loaded.device),
        dtype=str(loaded.model.dtype).removeprefix("torch."),
        longest_token=max(map(len, loaded.tokenizer.get_vocab())),
        eos_token_ids=loaded.eos_token_ids,
        vocabulary=vocabulary,
        grammars=Grammars(vocabulary, loaded.eos_token_ids),
    )
