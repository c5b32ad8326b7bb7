"""Small models of the real classes with random weights: what tests run instead of gigabytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    MistralConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 .:?!,\n"
IMAGE, END = "<image>", "</s>"
IMAGE_ID = 4
VOCABULARY = 128
TEMPLATE = (
    "{% for m in messages %}{{ m['role'].upper() }}: {% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for p in m['content'] %}{% if p['type'] == 'image' %}<image>\n{% else %}{{ p['text'] }}{% endif %}{% endfor %}"
    "{% endif %} {% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def small_tokenizer(
    controls: Sequence[str] = (), *, blanks: Sequence[str] = (), place: str = IMAGE, **named: str
) -> PreTrainedTokenizerFast:
    """One token a character. controls: further control tokens; blanks: runs of newlines that are one token each;
    place: what the chat template writes for a picture; named: control tokens as attributes, as some processors ask."""
    words = ["<pad>", "<unk>", "<s>", END, IMAGE, *CHARACTERS, *controls, *blanks]
    vocab = {token: index for index, token in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_tokens([AddedToken(blank, special=False, normalized=False) for blank in blanks])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token=END,
        extra_special_tokens=named or [IMAGE, *controls],
        chat_template=TEMPLATE.replace(IMAGE, place),
    )


def qwen2_vl(num_heads: int = 4, num_kv_heads: int = 2, layers: int = 3, window: int | None = None) -> PreTrainedModel:
    """Qwen2-VL with patches of 4 px merged 2 x 2: a visual token shows 8 x 8 px.

    With a window, all layers but the first slide.
    """
    config = Qwen2VLConfig(
        text_config={
            **_text(num_heads, num_kv_heads, layers, vocabulary=80),
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0, "mrope_section": [2, 3, 3]},
            "use_sliding_window": window is not None, "sliding_window": window, "max_window_layers": 1,
        },
        vision_config={
            "depth": 1, "embed_dim": 32, "hidden_size": 16 * num_heads, "num_heads": 2, "mlp_ratio": 2,
            "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2,
        },
        image_token_id=IMAGE_ID,
        vision_start_token_id=2,
    )  # fmt: skip
    return _random(Qwen2VLForConditionalGeneration, config)


def qwen2_5_vl() -> PreTrainedModel:
    """Qwen2.5-VL, cells of 8 px; its first vision layer attends in windows of 16 px."""
    config = Qwen2_5_VLConfig(
        text_config={
            **_text(4, 2),
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0, "mrope_section": [2, 3, 3]},
        },
        vision_config={
            "depth": 2, "hidden_size": 32, "out_hidden_size": 64, "num_heads": 2, "intermediate_size": 32,
            "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 16,
            "fullatt_block_indexes": [1],
        },
        image_token_id=IMAGE_ID,
        vision_start_token_id=2,
    )  # fmt: skip
    return _random(Qwen2_5_VLForConditionalGeneration, config)


def qwen3_vl() -> PreTrainedModel:
    """Qwen3-VL, cells of 8 px; one deepstack layer."""
    config = Qwen3VLConfig(
        text_config={
            **_text(4, 2), "head_dim": 16,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0, "mrope_section": [2, 3, 3]},
        },
        vision_config={
            "depth": 2, "hidden_size": 32, "out_hidden_size": 64, "num_heads": 2, "intermediate_size": 32,
            "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2, "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0],
        },
        image_token_id=IMAGE_ID,
        vision_start_token_id=2,
    )  # fmt: skip
    return _random(Qwen3VLForConditionalGeneration, config)


def llava_next(text: str = "llama", num_heads: int = 4, num_kv_heads: int = 4, layers: int = 3) -> PreTrainedModel:
    """LLaVA-NeXT with tiles of 32 px and patches of 8 px, over a Llama or a Mistral text model."""
    shape = _text(num_heads, num_kv_heads, layers, vocabulary=80)
    config = LlavaNextConfig(
        text_config=LlamaConfig(**shape) if text == "llama" else MistralConfig(**shape, sliding_window=None),
        vision_config=CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=32,
            patch_size=8,
        ),
        image_grid_pinpoints=PINPOINTS,
        image_token_index=IMAGE_ID,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    return _random(LlavaNextForConditionalGeneration, config)


def llava_onevision() -> PreTrainedModel:
    """LLaVA-OneVision with tiles of 32 px, patches of 8 px, and tiles scaled down above 3 bases."""
    config = LlavaOnevisionConfig(
        text_config={"model_type": "qwen2", **_text(4, 2)},
        vision_config={"model_type": "siglip_vision_model", **_siglip(32, 8), "vision_use_head": False},
        image_grid_pinpoints=PINPOINTS,
        image_token_index=IMAGE_ID,
        video_token_index=2,
        vision_aspect_ratio="anyres_max_2",
    )
    return _random(LlavaOnevisionForConditionalGeneration, config)


def internvl() -> PreTrainedModel:
    """InternVL3 with tiles of 32 px and patches of 4 px merged 2 x 2."""
    config = InternVLConfig(
        text_config={"model_type": "qwen2", **_text(4, 2)},
        vision_config={
            "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
            "image_size": 32, "patch_size": 4,
        },
        image_token_id=IMAGE_ID,
        image_seq_length=16,
    )  # fmt: skip
    return _random(InternVLForConditionalGeneration, config)


def gemma3(window: int = 24) -> PreTrainedModel:
    """Gemma 3: 4 x 4 tokens a picture of 32 px, one layer that slides and one that does not."""
    config = Gemma3Config(
        text_config={
            **_text(4, 2), "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": window,
            "layer_types": ["sliding_attention", "full_attention"], "bos_token_id": 2, "pad_token_id": 0,
        },
        vision_config={**_siglip(32, 4), "vision_use_head": False},
        mm_tokens_per_image=16,
        image_token_index=IMAGE_ID,
        boi_token_index=FIRST_CONTROL,
        eoi_token_index=FIRST_CONTROL + 1,
    )  # fmt: skip
    return _random(Gemma3ForConditionalGeneration, config)


def idefics3(smolvlm: bool = False) -> PreTrainedModel:
    """Idefics3 or SmolVLM with tiles of 32 px and patches of 4 px merged 2 x 2."""
    cls: Any
    cls, model = (
        (SmolVLMConfig, SmolVLMForConditionalGeneration)
        if smolvlm
        else (Idefics3Config, Idefics3ForConditionalGeneration)
    )
    config = cls(
        text_config={"model_type": "llama", **_text(4, 2), "pad_token_id": 0},
        vision_config=_siglip(32, 4),
        scale_factor=2,
        image_token_id=IMAGE_ID,
        pad_token_id=0,
    )
    return _random(model, config)


def mistral3(window: int | None = None) -> PreTrainedModel:
    """Mistral 3 with patches of 4 px merged 2 x 2: cells of 8 px. With a window, every layer slides."""
    config = Mistral3Config(
        text_config={"model_type": "mistral", **_text(4, 2), "sliding_window": window},
        vision_config=_pixtral(4),
        spatial_merge_size=2,
        image_token_index=IMAGE_ID,
    )
    return _random(Mistral3ForConditionalGeneration, config)


def pixtral() -> PreTrainedModel:
    """Pixtral, which is a LLaVA, with patches of 8 px."""
    config = LlavaConfig(
        text_config={"model_type": "mistral", **_text(4, 2), "sliding_window": None},
        vision_config=_pixtral(8),
        image_token_index=IMAGE_ID,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    return _random(LlavaForConditionalGeneration, config)


def _text(num_heads: int, num_kv_heads: int, layers: int = 2, vocabulary: int = VOCABULARY) -> dict[str, Any]:
    return {
        "hidden_size": 16 * num_heads, "intermediate_size": 64, "num_hidden_layers": layers,
        "num_attention_heads": num_heads, "num_key_value_heads": num_kv_heads, "vocab_size": vocabulary,
        "max_position_embeddings": 2048, "eos_token_id": 3,
    }  # fmt: skip


def _siglip(image_size: int, patch_size: int) -> dict[str, Any]:
    return {
        "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "image_size": image_size, "patch_size": patch_size,
    }  # fmt: skip


def _pixtral(patch_size: int) -> dict[str, Any]:
    return {
        "model_type": "pixtral", "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "head_dim": 16,
        "num_attention_heads": 2, "image_size": 256, "patch_size": patch_size,
    }  # fmt: skip


def _random(cls: type[PreTrainedModel], config: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    model = cls(config).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:  # louder than the initialisation: attention is far from uniform, argmaxes are clear
            torch.nn.init.normal_(parameter, std=0.3 if "embed" in name else 1.5 / parameter.shape[-1] ** 0.5)
    return model


PINPOINTS = [[32, 64], [64, 32], [64, 64], [96, 32], [32, 96]]
FIRST_CONTROL = IMAGE_ID + 1 + len(CHARACTERS)
_QWEN = {
    "image_processor_type": "Qwen2VLImageProcessor", "patch_size": 4, "merge_size": 2, "temporal_patch_size": 2,
    "size": {"shortest_edge": 64, "longest_edge": 65536},
}  # fmt: skip
_IDEFICS = {"size": {"longest_edge": 96}, "max_image_size": {"longest_edge": 32}}
_SIZE = {"height": 32, "width": 32}
IMAGE_PROCESSORS: dict[str, dict[str, Any]] = {
    "qwen2_vl": _QWEN,
    "qwen2_5_vl": _QWEN,
    "qwen3_vl": _QWEN,
    "llava_next": {
        "image_processor_type": "LlavaNextImageProcessor", "size": {"shortest_edge": 32},
        "crop_size": {"height": 32, "width": 32}, "image_grid_pinpoints": PINPOINTS,
    },
    "llava_onevision": {
        "image_processor_type": "LlavaOnevisionImageProcessor", "size": _SIZE, "image_grid_pinpoints": PINPOINTS,
    },
    "internvl": {
        "image_processor_type": "GotOcr2ImageProcessor", "size": _SIZE, "min_patches": 1, "max_patches": 6,
    },
    "gemma3": {"image_processor_type": "Gemma3ImageProcessor", "size": _SIZE},
    "idefics3": {"image_processor_type": "Idefics3ImageProcessor", **_IDEFICS},
    "smolvlm": {"image_processor_type": "SmolVLMImageProcessor", **_IDEFICS},
    "mistral3": {"image_processor_type": "PixtralImageProcessor", "size": {"longest_edge": 96}},
    "llava": {"image_processor_type": "PixtralImageProcessor", "size": {"longest_edge": 96}},
}  # fmt: skip
_TILES = [f"<row_{row}_col_{col}>" for row in range(1, 4) for col in range(1, 4)]
TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "internvl": lambda: small_tokenizer(
        ["<img>", "</img>", "<video>"],
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token=IMAGE,
        video_token="<video>",
    ),
    "gemma3": lambda: small_tokenizer(
        ["<start_of_image>", "<end_of_image>"],
        blanks=["\n\n", "\n\n\n"],
        place="<start_of_image>",
        boi_token="<start_of_image>",
        eoi_token="<end_of_image>",
        image_token=IMAGE,
    ),
    "mistral3": lambda: small_tokenizer(["[IMG_BREAK]", "[IMG_END]"]),
    "llava": lambda: small_tokenizer(["[IMG_BREAK]", "[IMG_END]"]),
}
for _name in ("idefics3", "smolvlm"):
    TOKENIZERS[_name] = lambda: small_tokenizer(
        ["<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *_TILES], blanks=["\n\n"]
    )

FAMILIES: dict[str, Callable[[], PreTrainedModel]] = {
    "qwen2_vl": qwen2_vl,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
    "llava_next_llama": llava_next,
    "llava_next_mistral": lambda: llava_next("mistral", num_kv_heads=2),
    "llava_onevision": llava_onevision,
    "internvl": internvl,
    "gemma3": gemma3,
    "idefics3": idefics3,
    "smolvlm": lambda: idefics3(smolvlm=True),
    "mistral3": mistral3,
    "mistral3_sliding": lambda: mistral3(window=72),
    "pixtral": pixtral,
}
"""A small model of every family, by name."""


def save(model: PreTrainedModel, folder: Path) -> Path:
    """Write a model folder as a hub would have it: weights, tokenizer, picture processor."""
    model.save_pretrained(folder)
    TOKENIZERS.get(model.config.model_type, small_tokenizer)().save_pretrained(folder)
    processor = IMAGE_PROCESSORS[model.config.model_type]
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder
