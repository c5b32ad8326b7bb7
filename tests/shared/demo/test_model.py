"""The committed model folder: small, loadable by transformers alone, and able to read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from headmap.datasets.page_folder import PageFolder
from headmap.demo.assets import build_config, build_tokenizer
from headmap.demo.phrases import LOOKUP_PROMPT
from headmap.demo.evaluate import MODEL_FOLDER, ask, evaluate, load
from headmap.scoring.pages import TRANSCRIBE_PROMPT, make_page

SAMPLES = MODEL_FOLDER.parent / "samples"
HELD_OUT = 31_415


@pytest.fixture(scope="module")
def loaded() -> tuple[Any, Any]:
    return load(MODEL_FOLDER)


def test_the_folder_is_small_and_has_no_pickle() -> None:
    files = [path for path in MODEL_FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 10_000_000
    assert {path.suffix for path in files} <= {".json", ".jinja", ".safetensors"}


def test_it_is_qwen2_vl_with_grouped_queries(loaded: tuple[Any, Any]) -> None:
    model, processor = loaded
    assert type(model).__name__ == "Qwen2VLForConditionalGeneration"
    text = model.config.text_config
    assert text.num_attention_heads > text.num_key_value_heads > 1
    assert processor.image_processor.merge_size == model.config.vision_config.spatial_merge_size


def test_weights_and_configuration_are_those_of_the_recipe(loaded: tuple[Any, Any]) -> None:
    expected = build_config(build_tokenizer())
    saved = json.loads((MODEL_FOLDER / "config.json").read_text())
    for part in ("text_config", "vision_config"):
        for name, value in getattr(expected, part).to_dict().items():
            if name in saved[part] and name != "dtype":
                assert saved[part][name] == value, f"{part}.{name}"
    assert all(param.isfinite().all() for param in loaded[0].parameters())


def test_a_page_has_one_visual_token_a_cell(loaded: tuple[Any, Any]) -> None:
    model, processor = loaded
    page = make_page(HELD_OUT, 0)
    text = f"<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>{TRANSCRIBE_PROMPT}<|im_end|>\n"
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": TRANSCRIBE_PROMPT}]}]
    assert processor.apply_chat_template(messages, tokenize=False) == text
    inputs = processor(text=[text], images=[page.image], return_tensors="pt")
    image_tokens = int((inputs["input_ids"] == model.config.image_token_id).sum())
    assert image_tokens == page.image.width * page.image.height // 256


def test_words_of_the_prompts_are_single_tokens(loaded: tuple[Any, Any]) -> None:
    tokenizer = loaded[1].tokenizer
    pieces = tokenizer.convert_ids_to_tokens(tokenizer(f"{LOOKUP_PROMPT} ABC?")["input_ids"])
    assert pieces == ["What", " is", " the", " value", " of", " ", "A", "B", "C", "?"]


def test_text_comes_back_from_its_tokens(loaded: tuple[Any, Any]) -> None:
    tokenizer = loaded[1].tokenizer
    for text in (
        make_page(HELD_OUT, 1).text,
        f"{LOOKUP_PROMPT} XY?\n{TRANSCRIBE_PROMPT}",
        "Whatever, they're 'of' use",
    ):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.unk_token_id in tokenizer("é")["input_ids"]


def test_it_answers_lookups_on_pages_nobody_trained_on(loaded: tuple[Any, Any]) -> None:
    model, processor = loaded
    asked = [(page, question) for page in (make_page(HELD_OUT, i) for i in range(3)) for question in page.questions]
    answers = [ask(model, processor, page.image, q.question, 16) for page, q in asked]
    assert sum(answer.text == q.answer for answer, (_, q) in zip(answers, asked, strict=True)) >= 10


def test_it_reads_a_sample_page_to_its_end(loaded: tuple[Any, Any]) -> None:
    pages = list(PageFolder(SAMPLES))
    assert len(pages) == 3
    figures = evaluate(*loaded, pages[:1])
    assert figures["transcription_characters"]["value"] >= 0.95
    assert figures["lookup_exact"]["n"] == 4


def test_it_reads_in_the_precision_of_its_weights() -> None:
    model, processor = load(MODEL_FOLDER, dtype=torch.bfloat16)
    page = make_page(HELD_OUT, 5)
    answers = [ask(model, processor, page.image, q.question, 16).text == q.answer for q in page.questions]
    assert sum(answers) >= 3


def test_committed_figures_are_those_of_the_bars() -> None:
    figures = json.loads((Path(MODEL_FOLDER) / "evaluation.json").read_text())
    assert figures["lookup_exact"]["n"] >= 200
    assert {"lookup_exact", "transcription_characters", "transcription_ends_right"} <= set(figures)
