"""Load a model of any family from safetensors. Its own code runs only if trusted; our attention replaces its own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import (
    AutoModelForImageTextToText,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

# Imported from its own module, because some releases require torchvision for the top-level name.
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from headmap.devices import find_device, use_device
from headmap.errors import EmptyPrompt, InvalidParameter, ModelNotUsable, UnsupportedModel
from headmap.families.base import Family, PreparedPrompt, VisualTokens
from headmap.families.registry import FAMILIES
from headmap.families.tokenizing import Message, PromptTokenizer
from headmap.kvcache.shape import CacheShape
from headmap.kvcache.transformers.attention import use_headmap_attention
from headmap.kvcache.transformers.generate import cache_shape
from headmap.models import ModelInfo

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to run: weights, tokenizer, picture processor and its family."""

    info: ModelInfo
    family: Family
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    image_processor: Any
    prompts: PromptTokenizer
    eos_token_ids: frozenset[int]

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def cache_shape(self) -> CacheShape:
        return cache_shape(self.model)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of tokens without control tokens."""
        return str(self.tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    @property
    def template_names(self) -> frozenset[str]:
        """The variables that the model's chat template reads."""
        return self.prompts.names

    @property
    def template_knows_tools(self) -> bool:
        return "tools" in self.template_names

    @property
    def template_text(self) -> str:
        """The chat template. It tells a caller the format of the model's tool calls."""
        return self.prompts.template

    def prepare(
        self,
        messages: Sequence[Message],
        images: Sequence[Image.Image],
        tools: Sequence[Mapping[str, Any]] = (),
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> PreparedPrompt:
        """Tokenize a conversation and preprocess its pictures (RGB, one for each image part, in order).

        The chat template receives `tools` and `template_kwargs`, further variables by name. Raises InvalidParameter if
        the chat template rejects the conversation, or if the numbers of pictures and image parts differ.
        """
        config, tokenizer = self.model.config, self.tokenizer
        inputs, tokens = ({}, ()) if not images else self.family.image_inputs(config, self.image_processor, images)
        pictures = [self.family.written(config, tokenizer, image) for image in tokens]
        token_ids = self.prompts.chat(messages, self.family.place(config, tokenizer), pictures, tools, template_kwargs)
        return self._prepared(token_ids, inputs, tokens)

    def prepare_text(self, prompt: str) -> PreparedPrompt:
        """Tokenize a plain text without the chat template. Raises InvalidParameter."""
        return self._prepared(self.prompts.text(prompt), {}, ())

    def prepare_tokens(self, token_ids: Sequence[int]) -> PreparedPrompt:
        """Make a prompt from token ids without changing them.

        Raises EmptyPrompt if there are no ids. Raises InvalidParameter for an id outside the vocabulary or a picture
        token.
        """
        size = self.model.config.get_text_config(decoder=True).vocab_size
        image = self.family.image_token_id(self.model.config)
        for place, token in enumerate(token_ids):
            if not 0 <= token < size or token == image:
                why = (
                    "stands for a picture"
                    if token == image
                    else f"is not a token of the model, which has {size} tokens"
                )
                raise InvalidParameter(f"prompt.{place}: {token} {why}", param=f"prompt.{place}")
        return self._prepared(token_ids, {}, ())

    def _prepared(
        self, token_ids: Sequence[int], inputs: dict[str, torch.Tensor], images: Sequence[VisualTokens]
    ) -> PreparedPrompt:
        if not token_ids:
            raise EmptyPrompt("prompt: holds no token", param="prompt")
        input_ids = torch.tensor([token_ids])
        places = (input_ids[0] == self.family.image_token_id(self.model.config)).nonzero()[:, 0].numpy()
        ends = np.cumsum([image.count for image in images], dtype=np.int64)
        if len(places) != sum(image.count for image in images):
            raise UnsupportedModel(
                f"model: {self.info.name!r} has pictures of {sum(image.count for image in images)} tokens, but its "
                f"tokenizer writes {len(places)} of them",
                param="model",
            )
        by_image = np.split(places, ends[:-1]) if images else []
        placed = tuple(image.placed(own) for image, own in zip(images, by_image, strict=True))
        starts = tuple(int(own[0]) for own in by_image)
        spans = tuple((start, start + image.count) for start, image in zip(starts, placed, strict=True))
        position_ids, next_position = self.family.positions(self.model, input_ids, inputs)
        return PreparedPrompt(
            inputs={"input_ids": input_ids, **inputs},
            position_ids=position_ids,
            next_position=next_position,
            images=placed,
            image_starts=starts,
            spans=spans if self.family.sees_both_ways else (),
        )

    def rest(self, prompt: PreparedPrompt, start: int) -> PreparedPrompt:
        """Remove the first `start` tokens of `prompt`, for a later turn. They must not end within a picture."""
        seen = sum(place < start for place in prompt.image_starts)
        inputs = {"input_ids": prompt.inputs["input_ids"][:, start:]}
        if seen < len(prompt.images):
            inputs |= self.family.skip_images(self.model.config, prompt.inputs, prompt.images[:seen])
        return PreparedPrompt(
            inputs=inputs,
            position_ids=prompt.position_ids[..., start:],
            next_position=prompt.next_position,
            images=prompt.images[seen:],
            image_starts=tuple(place - start for place in prompt.image_starts[seen:]),
            spans=tuple((first - start, end - start) for first, end in prompt.spans if first >= start),
        )


def load_model(info: ModelInfo, *, device: str = "auto", dtype: str = "auto") -> LoadedModel:
    """Load the model that `info` names. Its device becomes the calling thread's current device.

    Raises ModelNotUsable if files or packages are missing or broken, UnsupportedModel as `wrap_model` does, and
    DeviceNotFound.
    """
    where = find_device(device)
    use_device(where)
    # Always set, because otherwise transformers may prompt at a terminal.
    code = {"trust_remote_code": info.trust_remote_code, "local_files_only": True}
    try:
        model: PreTrainedModel = AutoModelForImageTextToText.from_pretrained(
            info.folder, dtype=_dtype(dtype, where), attn_implementation="sdpa", use_safetensors=True, **code
        )
        torch.nn.Module.to(model, where)
        tokenizer = AutoTokenizer.from_pretrained(info.folder, **code)
        image_processor = AutoImageProcessor.from_pretrained(info.folder, **code)
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        raise ModelNotUsable(f"model: {info.name!r} cannot be loaded: {error}", param="model") from error
    return wrap_model(info, model.eval(), tokenizer, image_processor)


def wrap_model(
    info: ModelInfo, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, image_processor: Any
) -> LoadedModel:
    """Make a LoadedModel from its parts, and switch the model's text attention to ours.

    Raises UnsupportedModel if the cache does not support a kind of layer in the model.
    """
    try:
        cache_shape(model)
    except ValueError as error:
        raise UnsupportedModel(f"model: {info.name!r} cannot be served: {error}", param="model") from error
    use_headmap_attention(model)
    family = FAMILIES[info.family].load()
    family.bound_activations(model)
    return LoadedModel(
        info=info,
        family=family,
        model=model,
        tokenizer=tokenizer,
        image_processor=image_processor,
        prompts=PromptTokenizer(tokenizer, *_chat_templates(info, tokenizer)),
        eos_token_ids=_eos(model, tokenizer),
    )


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def _chat_templates(info: ModelInfo, tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """Return the chat template, from the processor or else the tokenizer, and the template for tools, or ""."""
    own = tokenizer.chat_template
    named = own if isinstance(own, dict) else {"default": own}
    with_tools = str(named.get("tool_use") or "")
    jinja, wrapped = info.folder / "chat_template.jinja", info.folder / "chat_template.json"
    if jinja.is_file():
        return jinja.read_text(encoding="utf-8"), with_tools
    if wrapped.is_file():
        return str(json.loads(wrapped.read_text(encoding="utf-8"))["chat_template"]), with_tools
    if isinstance(named.get("default"), str):
        return named["default"], with_tools
    raise UnsupportedModel(f"model: {info.name!r} has no chat template", param="model")


def _eos(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """All tokens that end an answer: from the generation settings, the tokenizer and the model's config.

    Tokens of the config count only if they are control tokens. A config file without such tokens has the defaults of
    its class, which belong to another vocabulary.
    """
    named = set(_as_ids(getattr(model.generation_config, "eos_token_id", None)))
    controls = {token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
    config = model.config.get_text_config(decoder=True)
    own = {*_as_ids(getattr(config, "eos_token_id", None)), *_as_ids(getattr(model.config, "eos_token_id", None))}
    return frozenset(named | own & controls | set(_as_ids(tokenizer.eos_token_id)))


def _as_ids(told: int | Sequence[int] | None) -> Sequence[int]:
    if told is None:
        return ()
    return (told,) if isinstance(told, int) else tuple(told)
