"""A model and an engine without weights, at the seams the service has: `OpenModel`, `PromptMaker`, `EngineLike`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image

from headmap.engine.decode_choice import DecodeChoice
from headmap.engine.messages import Cancelled, EngineRequest, Event, Failed, Finished, OnEvent, Token
from headmap.engine.sampling.grammar import Grammars
from headmap.engine.vocabulary import Vocabulary
from headmap.errors import HeadmapError, InvalidParameter
from headmap.families.base import Axis, PreparedPrompt, VisualTokens
from headmap.kvcache.planning import plan_cache
from headmap.kvcache.shape import CacheShape
from headmap.models import ModelInfo
from headmap.settings import Settings
from services.inference.served_model import OpenedModel

EOS = 0
IMAGE_TOKENS = 100
WORDS = ("It", " says", " ", "ABC", "")
VOCABULARY = Vocabulary(
    (b"", *(word.encode() for word in WORDS[:-1]), *map(bytes, zip(range(32, 127)))), {EOS: "<end>"}
)
"""The words, and every printable character of ASCII."""


@dataclass
class FakeStats:
    alive: bool = True
    running: int = 0
    waiting: int = 0
    kv_held_bytes: int = 0
    kv_capacity_bytes: int = 1_000_000
    kv_block_tokens: int = 16
    kv_block_bytes: int = 1000
    session_bytes: int = 0
    preempted_total: int = 0


@dataclass
class FakeEngine:
    """Says `words`, ending with the end token. Each request runs in a thread of its own.

    `refuse` is raised by submit, `fail` ends a request after one token, `hold` keeps requests running until it is set
    or they are cancelled.
    """

    shape: CacheShape
    refuse: HeadmapError | None = None
    fail: HeadmapError | None = None
    hold: bool = False
    released: threading.Event = field(default_factory=threading.Event)
    requests: list[EngineRequest] = field(default_factory=list)
    cancelled: set[str] = field(default_factory=set)
    stopped: bool = False
    sessions: list[Hashable] = field(default_factory=list)
    current: FakeStats = field(default_factory=FakeStats)
    words: tuple[str, ...] = WORDS

    def start(self) -> None:
        pass

    def stop(self, timeout: float) -> None:
        self.stopped = True
        self.released.set()

    def stats(self) -> FakeStats:
        return self.current

    def cancel(self, request_id: str) -> None:
        self.cancelled.add(request_id)

    def drop_session(self, key: Hashable) -> bool:
        return key in self.sessions and not self.sessions.remove(key)

    def submit(self, request: EngineRequest, on_event: OnEvent) -> None:
        if self.refuse is not None:
            raise self.refuse
        prompt_tokens = request.prompt.prompt_tokens
        plan = plan_cache(request.kv, self.shape, prompt_tokens, request.scores)
        self.requests.append(request)
        full = self.shape.full_tokens(prompt_tokens)
        end = self._end(request, plan.budget, plan.kept_tokens, full)
        if request.session is not None:
            self.sessions.append(request.session.key)
        threading.Thread(target=self._run, args=(request, on_event, end), daemon=True).start()

    def _run(self, request: EngineRequest, on_event: OnEvent, end: Callable[[int], Event]) -> None:
        count = min(len(self.words), request.sampling.max_new_tokens)
        for number in range(count):
            token = EOS if number == len(self.words) - 1 else number + 1
            top = request.sampling.top_logprobs
            logprob = None if top is None else -0.5 * (number + 1)
            others = tuple((other, -1.0 - other) for other in range(top or 0))
            on_event(Token(token, self.words[number], logprob, others, last=number == count - 1))
            if self.fail is not None:
                on_event(Failed(self.fail))
                return
            while self.hold and not self.released.wait(0.01):
                if request.id in self.cancelled:
                    on_event(Failed(Cancelled("the client went away")))
                    return
        on_event(end(count))

    def _end(self, request: EngineRequest, budget: int, kept: int, full: int) -> Callable[[int], Finished]:
        def end(count: int) -> Finished:
            return Finished(
                generated_text="".join(self.words[:count]),
                finish_reason="eos_token" if count == len(self.words) else "length",
                token_ids=tuple(EOS if number == len(self.words) - 1 else number + 1 for number in range(count)),
                prompt_logprobs=_of_prompt(request),
                kept_tokens=kept,
                full_tokens=full,
                kv_bytes=kept * self.shape.token_bytes,
                kv_full_bytes=full * self.shape.token_bytes,
                budget=budget,
                queue_ms=1.0,
                prefill_ms=2.0,
                decode_ms_per_token=3.0,
                reused_tokens=0 if request.session is None else min(7, request.prompt.prompt_tokens),
                session_kept=request.session is not None,
            )

        return end


def _of_prompt(request: EngineRequest) -> tuple[Token, ...]:
    """Token 1 in every place, likelier each time."""
    if request.prompt_logprobs is None:
        return ()
    top = tuple((other, -2.0) for other in range(request.prompt_logprobs))
    count = request.prompt.prompt_tokens
    return (Token(1, ""), *(Token(1, "", -1.0 / number, top) for number in range(1, count)))


@dataclass
class FakePrompts:
    """One token a character, IMAGE_TOKENS a picture; remembers what it was given."""

    conversations: list[Sequence[dict[str, Any]]] = field(default_factory=list)
    images: list[Image.Image] = field(default_factory=list)
    error: ValueError | None = None
    template_text: str = "{{ messages }}"
    tools: list[Mapping[str, Any]] = field(default_factory=list)

    @property
    def template_names(self) -> frozenset[str]:
        return frozenset({"messages", "tools", "enable_thinking"} if "tool" in self.template_text else {"messages"})

    @property
    def template_knows_tools(self) -> bool:
        return "tools" in self.template_names

    def prepare(
        self,
        messages: Sequence[dict[str, Any]],
        images: Sequence[Image.Image],
        tools: Sequence[Mapping[str, Any]] = (),
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> PreparedPrompt:
        if self.error is not None:
            raise self.error
        self.conversations.append(messages)
        self.images += images
        self.tools += tools
        characters = sum(len(part.get("text", "")) for message in messages for part in message["content"])
        return self._prepared(characters, len(images))

    def prepare_text(self, prompt: str) -> PreparedPrompt:
        self.conversations.append([{"role": "user", "content": prompt}])
        return self._prepared(len(prompt), 0)

    def prepare_tokens(self, token_ids: Sequence[int]) -> PreparedPrompt:
        if min(token_ids) < 0:
            raise InvalidParameter("prompt: no token", param="prompt")
        return self._prepared(len(token_ids), 0)

    @staticmethod
    def _prepared(characters: int, images: int) -> PreparedPrompt:
        count = characters + IMAGE_TOKENS * images
        grid = np.arange(IMAGE_TOKENS, dtype=np.int64).reshape(10, 10)
        one = VisualTokens(IMAGE_TOKENS, grid, Axis(10, 1.0), Axis(10, 1.0))
        return PreparedPrompt(
            inputs={"input_ids": torch.zeros(1, count, dtype=torch.int64)},
            position_ids=torch.arange(count)[None],
            next_position=count,
            images=(one,) * images,
            image_starts=tuple(range(images)),
        )


@dataclass
class FakeModels:
    """The `OpenModel` of a test: `engines` and `prompts` by the model's name once they are opened.

    `log` names what was loaded and what got an engine, in order; `shares` are the settings that the engines got.
    """

    make_engine: Callable[[CacheShape], FakeEngine] = FakeEngine
    log: list[str] = field(default_factory=list)
    shares: list[Settings] = field(default_factory=list)
    engines: dict[str, FakeEngine] = field(default_factory=dict)
    prompts: dict[str, FakePrompts] = field(default_factory=dict)
    decode: DecodeChoice | None = None

    def __call__(self, info: ModelInfo, settings: Settings) -> Callable[[Settings], OpenedModel]:
        self.log.append(f"load {info.name}")
        return partial(self._with_engine, info)

    def _with_engine(self, info: ModelInfo, share: Settings) -> OpenedModel:
        self.log.append(f"engine {info.name}")
        self.shares.append(share)
        shape = CacheShape(info.num_layers, info.num_kv_heads, head_dim=16, itemsize=4)
        self.engines[info.name] = self.make_engine(shape)
        self.prompts[info.name] = FakePrompts()
        return OpenedModel(
            prompts=self.prompts[info.name],
            engine=self.engines[info.name],
            device="cpu",
            dtype="float32",
            longest_token=8,
            eos_token_ids=frozenset({EOS}),
            vocabulary=VOCABULARY,
            grammars=Grammars(VOCABULARY, frozenset({EOS})),
            decode=self.decode,
        )

    @property
    def engine(self) -> FakeEngine:
        return next(iter(self.engines.values()))

    @property
    def prompt_maker(self) -> FakePrompts:
        return next(iter(self.prompts.values()))
