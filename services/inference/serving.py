"""Serving: the models of this process, and how one request becomes work for an engine."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from PIL import Image

from headmap.budgets import resolve_budget
from headmap.context import request_id
from headmap.engine.memory import share_of_each
from headmap.engine.messages import EngineRequest
from headmap.engine.reuse.sessions import SessionTurn
from headmap.engine.sampling.grammar import Grammar
from headmap.engine.sampling.params import SamplingParams
from headmap.errors import (
    HeadmapError,
    ImageTooLarge,
    InvalidImage,
    InvalidParameter,
    ModelNotFound,
    NoMapForModel,
    PromptTooLong,
    QueueFull,
    SessionNotFound,
    ShuttingDown,
)
from headmap.families.base import PreparedPrompt
from headmap.kvcache.methods import get_method
from headmap.kvcache.plan import KVRequest
from headmap.models import find_model
from headmap.registry.session import Database
from headmap.settings import Settings
from services.inference.http.schemas.kv import KVBody
from services.inference.intake.conversation import Conversation
from services.inference.intake.fetching import ImageFetcher
from services.inference.intake.image_pool import ImagePool
from services.inference.intake.images import EncodedImage, ImageSource
from services.inference.maps import MapBook, MapRefresher, ServedMap
from services.inference.requests import AnswerForm, Ask, KVChoice, ReadyRequest, SamplingAsk, ServedModel
from services.inference.served_model import OpenModel

logger = logging.getLogger(__name__)


@dataclass
class Serving:
    """The models that are served, from `start` to `stop`. Lives on `app.state.inference`; used on the event loop."""

    settings: Settings
    database: Database
    open_model: OpenModel
    fetcher: ImageFetcher
    models: dict[str, ServedModel] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._pool = ThreadPoolExecutor(self.settings.prepare_workers, thread_name_prefix="prepare")
        self._images = ImagePool(self.settings)
        self._preparing: Counter[str] = Counter()  # by model, as each engine has its own queue
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
            book = MapBook(self.database, info)
            await book.refresh()
            opened.engine.start()
            self.models[name] = ServedModel(info, opened, book)
            logger.info("serving %s, revision %s, on %s as %s", name, info.revision, opened.device, opened.dtype)
        books = [served.maps for served in self.models.values()]
        refresher = MapRefresher(books, self.settings.map_refresh_seconds)
        self._refresher = asyncio.create_task(refresher.run(), name="map refresher")

    def failure(self) -> str | None:
        """Why only a new process can serve: an engine that ended though nobody stopped it. None while all is well."""
        ended = [name for name, served in self.models.items() if not served.opened.engine.stats().alive]
        return f"the engine of {', '.join(ended)} ended by itself" if ended and not self._stopping else None

    async def give_up(self) -> None:
        """Take no more requests; those at hand fail with ShuttingDown."""
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
        await self.fetcher.close()
        self._pool.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self._images.close)
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

    async def prepare(self, served: ServedModel, ask: Ask) -> ReadyRequest:
        """Check a request and make its prompt. Cheap checks come first; decoding happens in processes of its own.

        Raises BadRequest leaves, ImageTooLarge, MapNotFound, MapMismatch, NoMapForModel, RegistryUnavailable,
        QueueFull and ShuttingDown.
        """
        if self._stopping:
            raise ShuttingDown("the server is shutting down")
        self._check_length(served, ask.prompt)
        _check_head(served, ask.watched)
        choice = await self.choose_kv(served, ask.kv)
        prompt, grammar, pictures = await self._in_threads(served, ask)
        params = self._sampling(served, ask.sampling, prompt.prompt_tokens)
        session = None
        if ask.session is not None:
            session = SessionTurn((ask.caller, ask.session), (choice.request, choice.map_id), pictures)
        identity = uuid.uuid4().hex
        request = EngineRequest(
            id=identity,
            prompt=prompt,
            kv=choice.request,
            sampling=params,
            scores=choice.scores,
            grammar=grammar,
            session=session,
            watched=ask.watched,
            group=identity if session is None and ask.watched is None else None,
            request_id=request_id.get(),
        )
        return ReadyRequest(served, request, choice)

    def drop_session(self, served: ServedModel, caller: str | None, name: str) -> None:
        """Forget a caller's conversation. Raises SessionNotFound."""
        if not served.opened.engine.drop_session((caller, name)):
            raise SessionNotFound(f"session: nothing is kept of {name!r}", param="session")

    async def choose_kv(self, served: ServedModel, kv: KVBody | None) -> KVChoice:
        """Settle method and map. Raises as `prepare`."""
        if kv is None and self.settings.default_kv_ratio is None:
            return KVChoice(KVRequest("full"))
        body = kv or KVBody.model_validate({})
        method = get_method(body.method)
        request = body.request()
        if method.needs_budget:
            if request.budget is None and request.ratio is None:
                request = replace(request, ratio=self.settings.default_kv_ratio)
            resolve_budget(1, request.budget, request.ratio)  # refuse before any picture is decoded
        named = None if body.map is None else served.maps.check(await served.maps.named(body.map))
        if not method.needs_scores:
            return KVChoice(request)
        found: ServedMap | None = named or served.maps.default
        if found is not None:
            served.maps.check(found)
            return KVChoice(request, found.scores, found.id, found.match)
        if self.settings.no_map_policy == "error":
            raise NoMapForModel(
                f"kv.method: {body.method} needs a head map, and {served.info.name!r} has none; POST /score makes one",
                param="kv.method",
            )
        # Uniform budgets with the same selection: that is what SnapKV is, and it is told under its name.
        return KVChoice(replace(request, method="snapkv"), match="none")

    def default_kv(self) -> dict[str, Any]:
        """What a request without `kv` gets."""
        ratio = self.settings.default_kv_ratio
        return {"method": "full"} if ratio is None else {"method": "sparsemm", "ratio": ratio}

    def context(self, served: ServedModel) -> int:
        """The most tokens a prompt of this model may have."""
        return min(self.settings.max_prompt_tokens, served.info.max_positions)

    def _check_length(self, served: ServedModel, prompt: Conversation | str) -> None:
        """Refuse what is too long by its characters alone, before it is tokenized."""
        characters = len(prompt) if isinstance(prompt, str) else prompt.characters
        least = characters // served.opened.longest_token
        if least > self.context(served):
            raise PromptTooLong(
                f"inputs: {characters} characters are at least {least} tokens, at most {self.context(served)} fit",
                param="inputs",
            )

    def _sampling(self, served: ServedModel, ask: SamplingAsk, prompt_tokens: int) -> SamplingParams:
        new_tokens = ask.max_new_tokens
        if new_tokens is None:  # nobody asked for more than fits
            room = served.info.max_positions - prompt_tokens
            new_tokens = max(1, min(self.settings.default_max_new_tokens, room))
        warp: dict[str, Any] = {"temperature": ask.temperature, "top_p": ask.top_p, "top_k": ask.top_k}
        asked = {key: value for key, value in warp.items() if value is not None}
        rest: dict[str, Any] = {"repetition_penalty": ask.repetition_penalty, "seed": ask.seed}
        return SamplingParams(
            max_new_tokens=new_tokens,
            do_sample=bool(asked) if ask.do_sample is None else ask.do_sample,
            stop=tuple(ask.stop),
            ignore_eos=ask.ignore_eos,
            top_logprobs=ask.top_logprobs,
            **asked,
            **{key: value for key, value in rest.items() if value is not None},
        )

    async def _in_threads(
        self, served: ServedModel, ask: Ask
    ) -> tuple[PreparedPrompt, Grammar | None, tuple[str, ...]]:
        """The prompt, the answer's grammar, and a digest of each picture where a session needs them."""
        name, stats = served.info.name, served.opened.engine.stats()
        at_work = self._preparing[name] + stats.running + stats.waiting
        if at_work >= self.settings.max_running + self.settings.max_waiting:
            raise QueueFull(f"{at_work} requests are at work, the most this server takes")
        self._preparing[name] += 1
        try:
            run = partial(asyncio.get_running_loop().run_in_executor, self._pool)
            grammar = None if ask.form is None else await run(_make_grammar, served, ask.form)
            if isinstance(ask.prompt, str):
                return await run(served.opened.prompts.prepare_text, ask.prompt), grammar, ()
            sources = ask.prompt.images
            fetched = [await self.fetcher.fetch(source) if source.is_url else source for source in sources]
            prompt, digests = await run(self._make_prompt, served, ask.prompt, fetched, ask.session is not None)
            return prompt, grammar, digests
        finally:
            self._preparing[name] -= 1

    def _make_prompt(
        self,
        served: ServedModel,
        conversation: Conversation,
        sources: Sequence[ImageSource | EncodedImage],
        digests: bool,
    ) -> tuple[PreparedPrompt, tuple[str, ...]]:
        """Runs in a thread of the pool, so decoded pictures of at most `prepare_workers` requests exist at once."""
        images: list[Image.Image] = []
        pixels, most = 0, self.settings.max_request_pixels
        for source in sources:
            images.append(self._images.decode(source))
            pixels += images[-1].width * images[-1].height
            if pixels > most:
                raise ImageTooLarge(
                    f"{source.field}: pictures up to it have {pixels} pixels; at most {most} are allowed in a request",
                    param=source.field,
                )
        try:
            prompt = served.opened.prompts.prepare(conversation.messages, images)
        except HeadmapError:
            raise
        except ValueError as error:
            # Picture processors refuse sizes they cannot cut into patches, for one extreme ratios of the sides.
            if not images:
                raise InvalidParameter(f"messages: the prompt cannot be made ({error})", param="messages") from error
            raise InvalidImage(f"images: the model cannot take this picture ({error})", param="images") from error
        return prompt, tuple(map(_digest, images)) if digests else ()


def _check_head(served: ServedModel, head: tuple[int, int] | None) -> None:
    """Raises InvalidParameter for a KV head that the model does not have."""
    if head is None:
        return
    info = served.info
    for name, value, count in zip(("layer", "kv_head"), head, (info.num_layers, info.num_kv_heads), strict=True):
        if value >= count:
            field = f"parameters.kept.{name}"
            raise InvalidParameter(f"{field}: {value} is not below {count}, the model's number of them", param=field)


def _make_grammar(served: ServedModel, form: AnswerForm) -> Grammar:
    grammars = served.opened.grammars
    if form.kind == "regex":
        return grammars.regex(form.value, form.field)
    return grammars.json_schema(form.value, form.field)


def _digest(image: Image.Image) -> str:
    return hashlib.sha256(f"{image.size}:".encode() + image.tobytes()).hexdigest()
