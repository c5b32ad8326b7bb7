"""The model without its weights: configuration, tokenizer, chat template and processor files."""

from __future__ import annotations

from pathlib import Path

from transformers import (
    LlamaConfig,
    LlavaConfig,
    PixtralVisionConfig,
    PreTrainedTokenizerBase,
)

from headmap.demo.assets import END, PAD, write_json
from headmap.scoring.pages import CELL

IMAGE, BREAK, IMAGE_END = "[IMG]", "[IMG_BREAK]", "[IMG_END]"
NEWLINE = "\n"
LONGEST_EDGE = 80 * CELL
"""Larger pictures are scaled down; 80 x 80 visual tokens leave room for text in 8,192 positions."""

# Unlike the bundled model's: the parts of a turn keep the order that a client sends them in.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% elif message['content'] %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' or 'image' in part or 'image_url' in part %}{{ '[IMG]' }}"
    "{% elif part['text'] %}{{ part['text'] }}{% endif %}"
    "{% endfor %}"
    "{% endif %}"
    "{{ '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def add_picture_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    """Add the three tokens of a picture at the end of SmolLM2's vocabulary."""
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE, BREAK, IMAGE_END]})
    tokenizer.pad_token, tokenizer.eos_token, tokenizer.padding_side = PAD, END, "left"
    tokenizer.model_max_length = 8192
    tokenizer.chat_template = CHAT_TEMPLATE


def build_config(text: LlamaConfig, tokenizer: PreTrainedTokenizerBase) -> LlavaConfig:
    """One visual token is one cell of a page: a patch of 16 px. `tokenizer` has the picture tokens."""
    ids = {token: tokenizer.get_vocab()[token] for token in (IMAGE, END, PAD)}
    text = LlamaConfig.from_dict({**text.to_dict(), "vocab_size": len(tokenizer), "pad_token_id": ids[PAD]})
    vision = PixtralVisionConfig(
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=6,
        image_size=LONGEST_EDGE,
        patch_size=CELL,
    )
    return LlavaConfig(
        text_config=text,
        vision_config=vision,
        image_token_index=ids[IMAGE],
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=True,
        architectures=["LlavaForConditionalGeneration"],
    )


def write_assets(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write all files except the weights and `config.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    images = {
        "image_processor_type": "PixtralImageProcessor",
        "patch_size": {"height": CELL, "width": CELL},
        "size": {"longest_edge": LONGEST_EDGE},
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "resample": 3,
    }
    write_json(folder / "preprocessor_config.json", images)
    processor = {"processor_class": "PixtralProcessor", "patch_size": CELL, "image_token": IMAGE}
    write_json(folder / "processor_config.json", processor)
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in (END, PAD)}
    generation = {"do_sample": False, "eos_token_id": ids[END], "pad_token_id": ids[PAD], "max_new_tokens": 512}
    write_json(folder / "generation_config.json", generation)
