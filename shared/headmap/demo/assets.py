"""The bundled model without its weights: configuration, tokenizer, chat template, image processor."""

from __future__ import annotations

import json
import re
import string
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2VLConfig

from headmap.demo import phrases
from headmap.scoring.pages import CELL

START, END = "<|im_start|>", "<|im_end|>"
PAD, UNKNOWN = "<|endoftext|>", "<|unk|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"
SPECIAL_TOKENS = (PAD, UNKNOWN, START, END, VISION_START, VISION_END, IMAGE, VIDEO)
ROLES = ("user", "assistant", "system")
MAX_CELLS = 1024
"""The maximum number of visual tokens per picture. Larger pictures are scaled down."""

# Pictures always precede the text of their turn, in any order that a client sends. LLaVA's templates do the same.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% elif message['content'] %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' or 'image' in part or 'image_url' in part %}"
    "{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['text'] %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% endif %}"
    "{{ '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def prompt_words() -> list[str]:
    """Words of the prompts. Each word is one token with its leading space, which keeps questions short."""
    return list(dict.fromkeys([*phrases.words(), *ROLES]))


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build a tokenizer of characters, special tokens and the prompts' words. Everything else is `<|unk|>`."""
    characters = ["\n", *(c for c in string.printable if c.isprintable())]
    tokens = list(dict.fromkeys([*SPECIAL_TOKENS, *characters, *prompt_words()]))
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token=UNKNOWN))
    longest_first = sorted(prompt_words(), key=len, reverse=True)
    pieces = "|".join(rf"{re.escape(word)}(?![A-Za-z0-9])" for word in longest_first).replace("\\ ", " ")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(rf"{pieces}|[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=UNKNOWN,
        pad_token=PAD,
        eos_token=END,
        extra_special_tokens={"image_token": IMAGE},
        model_max_length=4096,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def build_config(tokenizer: PreTrainedTokenizerFast) -> Qwen2VLConfig:
    """Build a small Qwen2-VL configuration. One visual token is one cell of a page: an unmerged patch of 16 px."""
    vocabulary = tokenizer.get_vocab()
    ids = {token: vocabulary[token] for token in SPECIAL_TOKENS}
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 192,
        "intermediate_size": 256,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "max_position_embeddings": 4096,
        "bos_token_id": None,
        "eos_token_id": ids[END],
        "pad_token_id": ids[PAD],
        # Sections cycle through t, h, w: every axis has fast and slow rotating pairs. The slow pairs match characters.
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 100000.0,
            "mrope_section": [2, 1, 1, 2, 2, 2, 2, 2, 2],
        },
    }
    vision = {
        "depth": 3,
        "embed_dim": 128,
        "num_heads": 4,
        "hidden_size": text["hidden_size"],
        "mlp_ratio": 2,
        "patch_size": CELL,
        "spatial_merge_size": 1,
        "temporal_patch_size": 2,
    }
    return Qwen2VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids[IMAGE],
        video_token_id=ids[VIDEO],
        vision_start_token_id=ids[VISION_START],
        vision_end_token_id=ids[VISION_END],
        tie_word_embeddings=True,
        architectures=["Qwen2VLForConditionalGeneration"],
    )


def write_assets(folder: Path) -> None:
    """Write all files except the weights and `config.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    images = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "patch_size": CELL,
        "merge_size": 1,
        "temporal_patch_size": 2,
        "size": {"shortest_edge": CELL * CELL, "longest_edge": MAX_CELLS * CELL * CELL},
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "resample": 3,
    }
    write_json(folder / "preprocessor_config.json", images)
    # This expands the image token like `Qwen2VLProcessor`, which needs torchvision (for videos).
    write_json(folder / "processor_config.json", {"processor_class": "PaddleOCRVLProcessor"})
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in (END, PAD)}
    generation = {"do_sample": False, "eos_token_id": ids[END], "pad_token_id": ids[PAD], "max_new_tokens": 512}
    write_json(folder / "generation_config.json", generation)


def write_json(path: Path, value: object) -> None:
    """Write a readable JSON file."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
