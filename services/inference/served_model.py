"""The seam between the HTTP service and what runs models: two small interfaces, and the real thing behind them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image

from headmap.devices import use_device
from headmap.engine.decode_choice import DecodeChoice
from headmap.engine.messages import EngineRequest, OnEvent
from headmap.engine.sampling.grammar import Grammars
from headmap.engine.vocabulary import Vocabulary, read_vocabulary
from headmap.families.base import PreparedPrompt
from headmap.models import ModelInfo
from headmap.settings import Settings
from services.inference.maps import MapBook
from services.inference.policies import PolicyBook


class PromptMaker(Protocol):
    """The part of a LoadedModel that the service uses. It is called from several threads."""

    @property
    def template_names(self) -> frozenset[str]: ...
    @property
    def template_knows_tools(self) -> bool: ...
    @property
    def template_text(self) -> str: ...
    def prepare(
        self,
        messages: Sequence[dict[str, Any]],
        images: Sequence[Image.Image],
        tools: Sequence[Mapping[str, Any]] = (),
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> PreparedPrompt: ...
    def prepare_text(self, prompt: str) -> PreparedPrompt: ...
    def prepare_tokens(self, token_ids: Sequence[int]) -> PreparedPrompt: ...


class Stats(Protocol):
    """An engine at one moment. KV bytes: of held pages, of the whole pool, and of the kept sessions.

    A block is `kv_block_tokens` tokens of a sequence, in all layers and KV heads without a sliding window.
    """

    @property
    def alive(self) -> bool: ...
    @property
    def running(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    @property
    def kv_held_bytes(self) -> int: ...
    @property
    def kv_capacity_bytes(self) -> int: ...
    @property
    def kv_block_tokens(self) -> int: ...
    @property
    def kv_block_bytes(self) -> int: ...
    @property
    def session_bytes(self) -> int: ...
    @property
    def preempted_total(self) -> int: ...


class EngineLike(Protocol):
    """The part of an Engine that the service uses. Tests use a fake in its place."""

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
    decode: DecodeChoice | None = None
    """How the engine's decode steps run, where that was found out."""


@dataclass(frozen=True)
class ServedModel:
    """A model that is open, and the maps and policies it is served with."""

    info: ModelInfo
    opened: OpenedModel
    maps: MapBook
    policies: PolicyBook


OpenModel = Callable[[ModelInfo, Settings], Callable[[Settings], OpenedModel]]
"""Loads a model's weights and returns what makes its engine, with the settings that say how much memory it gets."""


def open_model(info: ModelInfo, settings: Settings) -> Callable[[Settings], OpenedModel]:
    """An OpenModel. Raises UnsupportedModel, and Unavailable for a device that does not exist."""
    from headmap.engine.engine import Engine
    from headmap.families.loading import load_model

    loaded = load_model(info, device=settings.device, dtype=settings.dtype)
    vocabulary = read_vocabulary(loaded.tokenizer)

    def with_engine(share: Settings) -> OpenedModel:
        use_device(loaded.device)
        engine = Engine(loaded, share)
        return OpenedModel(
            prompts=loaded,
            engine=engine,
            device=str(loaded.device),
            dtype=str(loaded.model.dtype).removeprefix("torch."),
            longest_token=max(map(len, loaded.tokenizer.get_vocab())),
            eos_token_ids=loaded.eos_token_ids,
            vocabulary=vocabulary,
            grammars=Grammars(vocabulary, loaded.eos_token_ids),
            decode=engine.choice,
        )

    return with_engine
