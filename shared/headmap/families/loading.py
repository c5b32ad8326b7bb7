"""Load a model of any family: weights from safetensors, no remote code, attention switched to ours."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

# From its own module: some releases guard the name at top level with torchvision, which we do without.
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from headmap.errors import InvalidParameter, UnsupportedModel
from headmap.families.base import Family, PreparedPrompt
from headmap.families.llava_next import LlavaNext
from headmap.families.qwen2_vl import Qwen2VL
from headmap.families.tokenizing import Message, PromptTokenizer
from headmap.kvcache.attention import use_headmap_attention
from headmap.kvcache.generate import cache_shape
from headmap.kvcache.plan import CacheShape
from headmap.models import ModelInfo

_FAMILIES: dict[str, type[Family]] = {family.name: family for family in (Qwen2VL, LlavaNext)}


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to run: weights, tokenizer, picture processor and what its family knows."""

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
        """The text of tokens, control tokens left out."""
        return str(self.tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def prepare(self, messages: Sequence[Message], images: Sequence[Image.Image]) -> PreparedPrompt:
        """Tokenize a conversation and preprocess its pictures (RGB, one for each image part, in order).

        Raises InvalidParameter for a conversation that the chat template does not take and for another number of
        pictures than image parts.
        """
        return self._prepared(self.prompts.chat(messages), images)

    def prepare_text(self, prompt: str) -> PreparedPrompt:
        """Tokenize a bare text, without the chat template. Raises InvalidParameter."""
        return self._prepared(self.prompts.text(prompt), ())

    def _prepared(self, token_ids: Sequence[int], images: Sequence[Image.Image]) -> PreparedPrompt:
        image_token = self.family.image_token_id(self.model.config)
        found = token_ids.count(image_token)
        if found != len(images):
            raise InvalidParameter(f"images: the prompt has {found} places for pictures, got {len(images)}")
        inputs, tokens = ({}, ()) if not images else self._image_inputs(images)
        expanded: list[int] = []
        starts: list[int] = []
        for token in token_ids:
            if token == image_token:
                starts.append(len(expanded))
                expanded.extend([image_token] * tokens[len(starts) - 1].count)
            else:
                expanded.append(token)
        input_ids = torch.tensor([expanded])
        position_ids, next_position = self.family.positions(self.model, input_ids, inputs)
        return PreparedPrompt(
            inputs={"input_ids": input_ids, **inputs},
            position_ids=position_ids,
            next_position=next_position,
            images=tokens,
            image_starts=tuple(starts),
        )

    def rest(self, prompt: PreparedPrompt, start: int) -> PreparedPrompt:
        """`prompt` without its first `start` tokens, which must not end within a picture: what a further turn adds."""
        seen = sum(place < start for place in prompt.image_starts)
        inputs = {"input_ids": prompt.inputs["input_ids"][:, start:]}
        if seen < len(prompt.images):
            inputs |= self.family.skip_images(prompt.inputs, seen)
        return PreparedPrompt(
            inputs=inputs,
            position_ids=prompt.position_ids[..., start:],
            next_position=prompt.next_position,
            images=prompt.images[seen:],
            image_starts=tuple(place - start for place in prompt.image_starts[seen:]),
            spans=tuple((first - start, end - start) for first, end in prompt.spans if first >= start),
        )

    def _image_inputs(self, images: Sequence[Image.Image]) -> tuple[dict[str, torch.Tensor], tuple[Any, ...]]:
        return self.family.image_inputs(self.model.config, self.image_processor, images)


def load_model(info: ModelInfo, *, device: str = "auto", dtype: str = "auto") -> LoadedModel:
    """Load what `info` names. Raises UnsupportedModel where files are missing or broken."""
    where = _device(device)
    try:
        model: PreTrainedModel = AutoModelForImageTextToText.from_pretrained(
            info.folder, dtype=_dtype(dtype, where), attn_implementation="sdpa", use_safetensors=True
        )
        torch.nn.Module.to(model, where)
        tokenizer = AutoTokenizer.from_pretrained(info.folder)
        image_processor = AutoImageProcessor.from_pretrained(info.folder)
    except (OSError, ValueError, ImportError) as error:
        raise UnsupportedModel(f"model: {info.name!r} cannot be loaded: {error}", param="model") from error
    return wrap_model(info, model.eval(), tokenizer, image_processor)


def wrap_model(
    info: ModelInfo, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, image_processor: Any
) -> LoadedModel:
    """Make a LoadedModel of parts at hand; switches the model's text attention to ours."""
    use_headmap_attention(model)
    return LoadedModel(
        info=info,
        family=_FAMILIES[info.family](),
        model=model,
        tokenizer=tokenizer,
        image_processor=image_processor,
        prompts=PromptTokenizer(tokenizer, _chat_template(info, tokenizer)),
        eos_token_ids=_eos(model.generation_config, tokenizer),
    )


def _device(name: str) -> torch.device:
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def _chat_template(info: ModelInfo, tokenizer: PreTrainedTokenizerBase) -> str:
    """The processor's template where the model has one of its own, else the tokenizer's."""
    jinja, wrapped = info.folder / "chat_template.jinja", info.folder / "chat_template.json"
    if jinja.is_file():
        return jinja.read_text()
    if wrapped.is_file():
        return str(json.loads(wrapped.read_text())["chat_template"])
    if isinstance(tokenizer.chat_template, str):
        return tokenizer.chat_template
    raise UnsupportedModel(f"model: {info.name!r} has no chat template", param="model")


def _eos(config: GenerationConfig | None, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    ids = config.eos_token_id if config is not None else None
    if ids is None:
        ids = tokenizer.eos_token_id
    if ids is None:
        return frozenset()
    return frozenset(ids if isinstance(ids, list) else [ids])
