"""Small models of the real classes with random weights: what tests run instead of gigabytes."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    MistralConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)

CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 .:?!,\n"
IMAGE, END = "<image>", "</s>"
TEMPLATE = (
    "{% for m in messages %}{{ m['role'].upper() }}: {% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for p in m['content'] %}{% if p['type'] == 'image' %}<image>\n{% else %}{{ p['text'] }}{% endif %}{% endfor %}"
    "{% endif %} {% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def small_tokenizer() -> PreTrainedTokenizerFast:
    vocab = {token: index for index, token in enumerate(["<pad>", "<unk>", "<s>", END, IMAGE, *CHARACTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token=END,
        additional_special_tokens=[IMAGE],
        chat_template=TEMPLATE,
    )


def qwen2_vl(num_heads: int = 4, num_kv_heads: int = 2, layers: int = 3, window: int | None = None) -> PreTrainedModel:
    """Qwen2-VL with patches of 4 px merged 2 x 2: a visual token shows 8 x 8 px.

    With a window, all layers but the first slide.
    """
    config = Qwen2VLConfig(
        text_config={
            "hidden_size": 16 * num_heads,
            "intermediate_size": 64,
            "num_hidden_layers": layers,
            "num_attention_heads": num_heads,
            "num_key_value_heads": num_kv_heads,
            "vocab_size": 80,
            "max_position_embeddings": 2048,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0, "mrope_section": [2, 3, 3]},
            "eos_token_id": 3,
            "use_sliding_window": window is not None, "sliding_window": window, "max_window_layers": 1,
        },
        vision_config={
            "depth": 1, "embed_dim": 32, "hidden_size": 16 * num_heads, "num_heads": 2, "mlp_ratio": 2,
            "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2,
        },
        image_token_id=4,
        vision_start_token_id=2,
    )  # fmt: skip
    return _random(Qwen2VLForConditionalGeneration, config)


def llava_next(text: str = "llama", num_heads: int = 4, num_kv_heads: int = 4, layers: int = 3) -> PreTrainedModel:
    """LLaVA-NeXT with tiles of 32 px and patches of 8 px, over a Llama or a Mistral text model."""
    shape = {
        "hidden_size": 16 * num_heads, "intermediate_size": 64, "num_hidden_layers": layers,
        "num_attention_heads": num_heads, "num_key_value_heads": num_kv_heads, "vocab_size": 80,
        "max_position_embeddings": 2048, "eos_token_id": 3,
    }  # fmt: skip
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
        image_grid_pinpoints=[[32, 64], [64, 32], [64, 64], [96, 32], [32, 96]],
        image_token_id=4,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    return _random(LlavaNextForConditionalGeneration, config)


def _random(cls: type[PreTrainedModel], config: object) -> PreTrainedModel:
    torch.manual_seed(0)
    model = cls(config).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:  # louder than the initialisation: attention is far from uniform, argmaxes are clear
            torch.nn.init.normal_(parameter, std=0.3 if "embed" in name else 1.5 / parameter.shape[-1] ** 0.5)
    return model


IMAGE_PROCESSORS = {
    "qwen2_vl": {
        "image_processor_type": "Qwen2VLImageProcessor", "patch_size": 4, "merge_size": 2, "temporal_patch_size": 2,
        "size": {"shortest_edge": 64, "longest_edge": 65536},
    },
    "llava_next": {
        "image_processor_type": "LlavaNextImageProcessor", "size": {"shortest_edge": 32},
        "crop_size": {"height": 32, "width": 32},
        "image_grid_pinpoints": [[32, 64], [64, 32], [64, 64], [96, 32], [32, 96]],
    },
}  # fmt: skip


def save(model: PreTrainedModel, folder: Path) -> Path:
    """Write a model folder as a hub would have it: weights, tokenizer, picture processor."""
    model.save_pretrained(folder)
    small_tokenizer().save_pretrained(folder)
    processor = IMAGE_PROCESSORS[model.config.model_type]
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder
