"""From a conversation with pictures to a prompt of the model, off the event loop and under the settings' limits."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from PIL import Image

from headmap.engine.sampling.grammar import Grammar
from headmap.errors import HeadmapError, ImageTooLarge, InvalidImage, InvalidParameter, QueueFull
from headmap.families.base import PreparedPrompt
from headmap.settings import Settings
from services.inference.asked import AnswerForm, AskedRequest
from services.inference.intake.conversation import Conversation
from services.inference.intake.fetching import ImageFetcher
from services.inference.intake.image_pool import ImagePool
from services.inference.intake.images import EncodedImage, ImageSource
from services.inference.served_model import OpenedModel, ServedModel
from services.inference.tools.requests import with_ids_for

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
        self._images = ImagePool(settings)
        self._preparing: Counter[str] = Counter()  # by model: each engine has its own queue

    async def prepare(self, served: ServedModel, asked: AskedRequest) -> Prepared:
        """Fetch and decode the pictures and make the prompt.

        Raises QueueFull if the model has too many requests, InvalidImage, ImageTooLarge, InvalidParameter,
        Unavailable and ShuttingDown.
        """
        name, model, stats = served.info.name, served.opened, served.opened.engine.stats()
        at_work = self._preparing[name] + stats.running + stats.waiting
        if at_work >= self._settings.max_running + self._settings.max_waiting:
            raise QueueFull(f"the server has {at_work} requests, and takes no more")
        self._preparing[name] += 1
        try:
            run = partial(asyncio.get_running_loop().run_in_executor, self._threads)
            grammar = None if asked.form is None else await run(_make_grammar, model, asked.form)
            if isinstance(asked.prompt, str):
                return Prepared(await run(model.prompts.prepare_text, asked.prompt), grammar)
            if isinstance(asked.prompt, tuple):
                return Prepared(await run(model.prompts.prepare_tokens, asked.prompt), grammar)
            _check_template(model, asked.prompt)
            sources = asked.prompt.images
            fetched = [await self._fetcher.fetch(source) if source.is_url else source for source in sources]
            prompt, digests = await run(self._make_prompt, model, asked.prompt, fetched, asked.session is not None)
            return Prepared(prompt, grammar, digests)
        finally:
            self._preparing[name] -= 1

    async def close(self) -> None:
        await self._fetcher.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self._images.close)

    def _make_prompt(
        self,
        model: OpenedModel,
        conversation: Conversation,
        sources: Sequence[ImageSource | EncodedImage],
        with_digests: bool,
    ) -> tuple[PreparedPrompt, tuple[str, ...]]:
        """Runs in one of `prepare_workers` threads, so at most that many requests have decoded pictures at once."""
        images: list[Image.Image] = []
        pixels, most = 0, self._settings.max_request_pixels
        for source in sources:
            images.append(self._images.decode(source))
            pixels += images[-1].width * images[-1].height
            if pixels > most:
                raise ImageTooLarge(
                    f"{source.name}: {pixels} pixels in the request's pictures up to this one; at most {most}",
                    param=source.field,
                )
        try:
            messages = with_ids_for(model.prompts.template_text, conversation.messages)
            prompt = model.prompts.prepare(messages, images, conversation.tools, conversation.template_kwargs)
        except HeadmapError:
            raise
        except ValueError as error:
            raise _refusal(model, sources, images, error) from error
        return prompt, tuple(map(_digest, images)) if with_digests else ()


def _refusal(
    model: OpenedModel,
    sources: Sequence[ImageSource | EncodedImage],
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


def _make_grammar(model: OpenedModel, form: AnswerForm) -> Grammar:
    grammars = model.grammars
    makers: dict[str, Callable[[Any, str], Grammar]] = {
        "json_schema": grammars.json_schema,
        "regex": grammars.regex,
        "choice": grammars.choice,
        "grammar": grammars.lark,
    }
    return makers[form.kind](form.value, form.field)


_OWN_VARIABLES = frozenset({"messages", "tools", "add_generation_prompt", "tokenize", "return_dict", "chat_template"})


def _check_template(model: OpenedModel, conversation: Conversation) -> None:
    """Raises InvalidParameter for a variable that the model's chat template does not have; false means the default."""
    for name, value in conversation.template_kwargs.items():
        if name in _OWN_VARIABLES or (value and name not in model.prompts.template_names):
            field = f"chat_template_kwargs.{name}"
            raise InvalidParameter(f"{field}: the model's chat template has no such variable", param=field)


def _digest(image: Image.Image) -> str:
    return hashlib.sha256(f"{image.size}:".encode() + image.tobytes()).hexdigest()
