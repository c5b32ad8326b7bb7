"""From a conversation with pictures to a prompt of the model, off the event loop and under the settings' limits."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from PIL import Image

from headmap.engine.sampling.grammar import Grammar
from headmap.errors import HeadmapError, InvalidImage, InvalidParameter, QueueFull
from headmap.families.base import PreparedPrompt
from headmap.http.receiving import RequestBytes
from headmap.settings import Settings
from services.inference.asked import AskedRequest
from services.inference.intake.conversation import Conversation
from services.inference.intake.fetching import ImageFetcher
from services.inference.intake.grammar_pool import GrammarPool
from services.inference.intake.image_pool import ImagePool, Source
from services.inference.intake.images import check_length
from services.inference.served_model import OpenedModel, ServedModel
from services.inference.tools.requests import with_ids_for

T = TypeVar("T")

_PICTURE_ALONE = ({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}]},)


@dataclass(frozen=True)
class Prepared:
    """A prompt, the grammar of its answer, and each picture's digest if a session needs them."""

    prompt: PreparedPrompt
    grammar: Grammar | None = None
    digests: tuple[str, ...] = ()


class Intake:
    """Prepares the requests of all models that are served. Used on the event loop."""

    def __init__(self, settings: Settings, fetcher: ImageFetcher) -> None:
        self._settings, self._fetcher = settings, fetcher
        self._threads = ThreadPoolExecutor(settings.prepare_workers, thread_name_prefix="prepare")
        self._images, self._grammars = ImagePool(settings), GrammarPool(settings)
        self._preparing: Counter[str] = Counter()  # by model: each engine has its own queue

    async def prepare(self, served: ServedModel, asked: AskedRequest, held: RequestBytes) -> Prepared:
        """Fetch and decode the pictures and make the prompt. Cancelled, it ends what works for it.

        Raises QueueFull if the model has too many requests, BodiesTooLarge if there is no memory for the pictures
        beside what all requests hold, InvalidImage, ImageTooLarge, InvalidParameter, Unavailable and ShuttingDown.
        """
        name, model, stats = served.info.name, served.opened, served.opened.engine.stats()
        at_work = self._preparing[name] + stats.running + stats.waiting
        if at_work >= self._settings.max_running + self._settings.max_waiting:
            raise QueueFull(f"the server has {at_work} requests, and takes no more")
        self._preparing[name] += 1
        pictures = held.part()
        try:
            grammar = None if asked.form is None else await self._grammars.make(name, model, asked.form, held)
            if isinstance(asked.prompt, str):
                return Prepared(await self._run(model.prompts.prepare_text, asked.prompt), grammar)
            if isinstance(asked.prompt, tuple):
                return Prepared(await self._run(model.prompts.prepare_tokens, asked.prompt), grammar)
            _check_template(model, asked.prompt)
            if not asked.prompt.images:
                prompt = await self._run(_make_prompt, model, asked.prompt, (), ())
                return Prepared(prompt, grammar)
            for source in asked.prompt.images:
                check_length(source, self._settings.max_image_bytes)
            sources = await self._fetcher.fetch_all(asked.prompt.images, pictures)
            async with self._images.decoded(sources, pictures) as images:
                prompt = await self._run(_make_prompt, model, asked.prompt, sources, images)
                digests = await self._run(_digests, images) if asked.session is not None else ()
            return Prepared(prompt, grammar, digests)
        finally:
            pictures.give_back()
            self._preparing[name] -= 1

    async def _run(self, work: Callable[..., T], *arguments: object) -> T:
        """In one of `prepare_workers` threads."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    async def close(self) -> None:
        await self._fetcher.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
        for pool in (self._images, self._grammars):
            await asyncio.to_thread(pool.close)


def _make_prompt(
    model: OpenedModel, conversation: Conversation, sources: Sequence[Source], images: Sequence[Image.Image]
) -> PreparedPrompt:
    try:
        messages = with_ids_for(model.prompts.template_text, conversation.messages)
        return model.prompts.prepare(messages, images, conversation.tools, conversation.template_kwargs)
    except HeadmapError:
        raise
    except ValueError as error:
        raise _refusal(model, sources, images, error) from error


def _refusal(
    model: OpenedModel,
    sources: Sequence[Source],
    images: Sequence[Image.Image],
    error: ValueError,
) -> HeadmapError:
    """The error for a prompt that cannot be made. Each picture is tried by itself to find the fault.

    Picture processors refuse sizes they cannot cut into patches, such as extreme ratios of the sides.
    """
    for source, image in zip(sources, images, strict=True):
        try:
            model.prompts.prepare(_PICTURE_ALONE, [image])
        except HeadmapError:
            continue
        except ValueError as own:
            return InvalidImage(f"{source.name}: the model cannot take this picture ({own})", param=source.field)
    return InvalidParameter(f"messages: the prompt cannot be made ({error})", param="messages")


_OWN_VARIABLES = frozenset({"messages", "tools", "add_generation_prompt", "tokenize", "return_dict", "chat_template"})


def _check_template(model: OpenedModel, conversation: Conversation) -> None:
    """Raises InvalidParameter for a variable that the model's chat template does not have; false means the default."""
    for name, value in conversation.template_kwargs.items():
        if name in _OWN_VARIABLES or (value and name not in model.prompts.template_names):
            field = f"chat_template_kwargs.{name}"
            raise InvalidParameter(f"{field}: the model's chat template has no such variable", param=field)


def _digests(images: Sequence[Image.Image]) -> tuple[str, ...]:
    return tuple(hashlib.sha256(f"{image.size}:".encode() + image.tobytes()).hexdigest() for image in images)
