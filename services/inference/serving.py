"""Serving: the models of this process, and how one request becomes work for an engine."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

from headmap.context import request_id
from headmap.engine.memory import share_of_each
from headmap.engine.messages import EngineRequest
from headmap.engine.reuse.sessions import SessionTurn
from headmap.engine.sampling.params import SamplingParams
from headmap.errors import (
    InvalidParameter,
    ModelNotFound,
    NoMapForModel,
    PromptTooLong,
    SessionNotFound,
    ShuttingDown,
)
from headmap.http.receiving import RequestBytes
from headmap.kvcache.methods import get_method
from headmap.kvcache.plan import KVRequest
from headmap.kvcache.planning import check_request
from headmap.models import find_model
from headmap.registry.session import Database
from headmap.settings import Settings
from headmap.tracing import current_span, entered
from services.inference.asked import AskedRequest
from services.inference.bridge import Generation
from services.inference.intake.conversation import Conversation
from services.inference.intake.fetching import ImageFetcher
from services.inference.intake.preparing import Intake
from services.inference.maps import Book, MapBook, Refresher, ServedMap
from services.inference.metrics import InferenceMetrics
from services.inference.policies import PolicyBook, told_policy
from services.inference.served_model import OpenModel, ServedModel
from services.inference.traces import about_prompt

logger = logging.getLogger(__name__)


@dataclass
class Serving:
    """The models that are served, from `start` to `stop`. Lives on `app.state.inference`; used on the event loop."""

    settings: Settings
    database: Database
    open_model: OpenModel
    fetcher: ImageFetcher
    metrics: InferenceMetrics
    models: dict[str, ServedModel] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._intake = Intake(self.settings, self.fetcher)
        self.started_at = int(time.time())
        self._stopping = False
        self._refresher: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Load every model and resolve its map. Raises ModelNotFound, UnsupportedModel and Unavailable."""
        names = list(dict.fromkeys(self.settings.models))
        infos = [await asyncio.to_thread(find_model, name, self.settings) for name in names]
        loaded = [await asyncio.to_thread(self.open_model, info, self.settings) for info in infos]
        share = share_of_each(self.settings, len(loaded))
        for name, info, with_engine in zip(names, infos, loaded, strict=True):
            opened = await asyncio.to_thread(with_engine, share)
            book = MapBook(self.database, info, self.settings.map_alias)
            policies = PolicyBook(self.database, info.name, book)
            await book.refresh()
            await policies.refresh()
            opened.engine.start()
            self.models[name] = ServedModel(info, opened, book, policies)
            self.metrics.begin(name)
            logger.info("serving %s, revision %s, on %s as %s", name, info.revision, opened.device, opened.dtype)
        books: list[Book] = [book for served in self.models.values() for book in (served.maps, served.policies)]
        refresher = Refresher(books, self.settings.map_refresh_seconds)
        self._refresher = asyncio.create_task(refresher.run(), name="registry refresher")

    def failure(self) -> str | None:
        """The reason why this process can no longer serve: an engine ended by itself. None while all is well."""
        ended = [name for name, served in self.models.items() if not served.opened.engine.stats().alive]
        return f"the engine of {', '.join(ended)} ended by itself" if ended and not self._stopping else None

    async def give_up(self) -> None:
        """Take no more requests; open ones fail with ShuttingDown."""
        self._stopping = True
        engines = [served.opened.engine for served in self.models.values()]
        await asyncio.gather(*(asyncio.to_thread(engine.stop, 0) for engine in engines))

    async def stop(self) -> None:
        """Take no more requests, let running ones finish for `settings.drain_seconds`, end everything."""
        self._stopping = True
        if self._refresher is not None:
            self._refresher.cancel()
            await asyncio.gather(self._refresher, return_exceptions=True)
        engines = [served.opened.engine for served in self.models.values()]
        await asyncio.gather(*(asyncio.to_thread(engine.stop, self.settings.drain_seconds) for engine in engines))
        await self._intake.close()
        self.database.close()

    def model(self, name: str | None) -> ServedModel:
        """The model called `name`, the first one for None. Raises ModelNotFound."""
        if name is None:
            return next(iter(self.models.values()))
        if name not in self.models:
            raise ModelNotFound(
                f"model: {name!r} is not served here; served are {', '.join(self.models)}", param="model"
            )
        return self.models[name]

    async def prepare(self, served: ServedModel, asked: AskedRequest, held: RequestBytes) -> Generation:
        """Check and settle a request and make its prompt; cheap checks come first. `held`: the memory it takes.

        Raises BadRequest leaves, ImageTooLarge, PolicyNotFound, MapNotFound, MapMismatch, NoMapForModel,
        RegistryUnavailable, QueueFull, BodiesTooLarge and ShuttingDown.
        """
        if self._stopping:
            raise ShuttingDown("the server is shutting down")
        self._check_length(served, asked)
        _check_tokens(served, asked.sampling)
        _check_head(served, asked.watched)
        asked = await self._with_default(served, asked)
        asked_kv = asked.kv or KVRequest()
        kv, found = await self._settle_kv(served, asked_kv, asked.map)
        with entered(current_span.get().child("prepare", about_prompt(asked))):
            prepared = await self._intake.prepare(served, asked, held)
        prompt_tokens = prepared.prompt.prompt_tokens
        self._check_context(served, asked, prompt_tokens)
        session = None
        if asked.session is not None:
            session = SessionTurn((asked.caller, asked.session), (kv, found and found.id), prepared.digests)
        identity = uuid.uuid4().hex
        request = EngineRequest(
            id=identity,
            prompt=prepared.prompt,
            kv=kv,
            sampling=self._settle_sampling(served, asked, prompt_tokens),
            open_ended=asked.max_new_tokens is None,
            prompt_logprobs=asked.prompt_logprobs,
            scores=None if found is None else found.scores,
            grammar=prepared.grammar,
            session=session,
            watched=asked.watched,
            group=identity if session is None and asked.watched is None else None,
            request_id=request_id.get(),
            trace_ids=current_span.get().ids,
        )
        missing = kv.method != asked_kv.method
        return Generation(served, request, self.metrics, policy=asked.policy, map=found, map_missing=missing)

    async def tokens(self, served: ServedModel, asked: AskedRequest, held: RequestBytes) -> list[int]:
        """The tokens of a prompt. Raises as `prepare` does for a faulty prompt."""
        self._check_length(served, asked)
        prompt = (await self._intake.prepare(served, asked, held)).prompt
        ids: list[int] = prompt.inputs["input_ids"][0].tolist()
        return ids

    def drop_session(self, served: ServedModel, caller: str | None, name: str) -> None:
        """Forget a caller's conversation. Raises SessionNotFound."""
        if not served.opened.engine.drop_session((caller, name)):
            raise SessionNotFound(f"session: the server keeps no session {name!r}", param="session")

    async def _settle_kv(
        self, served: ServedModel, kv: KVRequest, name: str | None
    ) -> tuple[KVRequest, ServedMap | None]:
        """The settled `kv`, and the map that sets the budgets if the method needs one. Raises as `prepare` does."""
        method = get_method(kv.method)
        if method.needs_budget and kv.budget is None and kv.ratio is None:
            kv = replace(kv, ratio=self.settings.default_kv_ratio)
        kv = replace(kv, select=kv.selector)  # a session's turns are alike, whether they name the default or not
        check_request(kv, name)  # refuse before any picture is decoded
        if not method.needs_scores:
            return kv, None
        found = served.maps.default if name is None else await served.maps.named(name)
        if found is not None:
            return kv, served.maps.check(found)
        if self.settings.no_map_policy == "error":
            raise NoMapForModel(
                f"kv.method: {kv.method} needs a head map, and {served.info.name!r} has none; POST /score makes one",
                param="kv.method",
            )
        # Uniform budgets with the same selection are SnapKV, so answers name it SnapKV.
        return replace(kv, method="snapkv"), None

    async def _with_default(self, served: ServedModel, asked: AskedRequest) -> AskedRequest:
        """`asked`, with what the settings say where it has no `kv`. Raises PolicyNotFound, RegistryUnavailable."""
        name, ratio = self.settings.default_policy, self.settings.default_kv_ratio
        if asked.kv is not None or (name is None and ratio is None):
            return asked
        if name is None:
            return replace(asked, kv=KVRequest("sparsemm", ratio=ratio))
        policy = await served.policies.named(name, "HEADMAP_DEFAULT_POLICY")
        return replace(asked, kv=policy.kv, map=policy.map, policy=policy)

    def default_kv(self, served: ServedModel) -> dict[str, Any]:
        """What a request without `kv` gets, as far as the last look at the registry knows."""
        name, ratio = self.settings.default_policy, self.settings.default_kv_ratio
        if name is not None:
            policy = next((one for one in served.policies.served if one.name == name), None)
            return {"policy": name} if policy is None else told_policy(policy)
        return {"method": "full"} if ratio is None else {"method": "sparsemm", "ratio": ratio}

    def context(self, served: ServedModel) -> int:
        """The most tokens a prompt of this model may have."""
        return min(self.settings.max_prompt_tokens, served.info.max_positions)

    def _check_length(self, served: ServedModel, asked: AskedRequest) -> None:
        """Refuse a text that is too long by its characters alone, before it is tokenized."""
        prompt = asked.prompt
        if isinstance(prompt, Conversation):
            least = prompt.characters // served.opened.longest_token
        else:
            least = len(prompt) // (served.opened.longest_token if isinstance(prompt, str) else 1)
        if least > self.context(served):
            self._too_long(asked, self.context(served), least, 0, "at least ")

    def _check_context(self, served: ServedModel, asked: AskedRequest, prompt_tokens: int) -> None:
        """Raises PromptTooLong if prompt and answer do not fit the model's context."""
        if prompt_tokens > self.context(served):
            self._too_long(asked, self.context(served), prompt_tokens, asked.max_new_tokens or 0)
        new_tokens = 1 if asked.max_new_tokens is None else asked.max_new_tokens
        if prompt_tokens + new_tokens > served.info.max_positions:
            self._too_long(asked, served.info.max_positions, prompt_tokens, new_tokens)

    @staticmethod
    def _too_long(asked: AskedRequest, most: int, prompt_tokens: int, new_tokens: int, about: str = "") -> NoReturn:
        """The error in OpenAI's words, which tell clients to shorten a conversation."""
        prompt = asked.names.prompt
        field = prompt if prompt_tokens >= most else asked.names.new_tokens
        raise PromptTooLong(
            f"{field}: This model's maximum context length is {most} tokens. However, you requested {about}"
            f"{prompt_tokens + new_tokens} tokens ({prompt_tokens} in the {prompt}, {new_tokens} in the completion). "
            f"Please reduce the length of the {prompt} or the completion.",
            param=field,
        )

    def _settle_sampling(self, served: ServedModel, asked: AskedRequest, prompt_tokens: int) -> SamplingParams:
        new_tokens = asked.max_new_tokens
        if new_tokens is None:  # nobody asked for more than fits
            new_tokens = served.info.max_positions - prompt_tokens
            if self.settings.default_max_new_tokens is not None:
                new_tokens = min(new_tokens, self.settings.default_max_new_tokens)
        warped = not asked.sampling.keys().isdisjoint(("temperature", "top_p", "top_k")) or asked.sampling.get("min_p")
        return SamplingParams(
            max_new_tokens=new_tokens,
            do_sample=bool(warped) if asked.do_sample is None else asked.do_sample,
            stop=tuple(asked.stop),
            ignore_eos=asked.ignore_eos,
            top_logprobs=asked.top_logprobs,
            **asked.sampling,
        )


def _check_tokens(served: ServedModel, sampling: Mapping[str, Any]) -> None:
    """Raises InvalidParameter for a token id that the model does not have."""
    size = len(served.opened.vocabulary.pieces)
    for name in ("logit_bias", "stop_token_ids"):
        for token in sampling.get(name, ()):
            if not 0 <= token < size:
                raise InvalidParameter(
                    f"{name}: {token} is not a token of the model, which has {size} tokens", param=name
                )


def _check_head(served: ServedModel, head: tuple[int, int] | None) -> None:
    """Raises InvalidParameter for a KV head that the model does not have."""
    if head is None:
        return
    info = served.info
    for name, value, count in zip(("layer", "kv_head"), head, (info.num_layers, info.num_kv_heads), strict=True):
        if value >= count:
            field = f"parameters.kept.{name}"
            raise InvalidParameter(f"{field}: must be below {count} for this model, got {value}", param=field)
