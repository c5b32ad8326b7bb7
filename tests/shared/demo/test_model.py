"""The committed model folder: small, loadable by transformers alone, and able to read."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from headmap.datasets.page_folder import PageFolder
from headmap.demo import phrases
from headmap.demo.assets import CHAT_TEMPLATE, build_config, build_tokenizer, write_assets
from headmap.demo.evaluate import MODEL_FOLDER, ask, evaluate, load
from headmap.demo.phrases import LOOKUP_PROMPT
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


PICTURE = "<|vision_start|><|image_pad|><|vision_end|>"


@pytest.mark.parametrize(
    ("content", "written"),
    [
        ("Hi", "Hi"),
        (None, ""),
        ("", ""),
        ([], ""),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "ab"),
        ([{"type": "text", "text": ""}, {"type": "image"}], PICTURE),
        ([{"type": "text", "text": "a"}, {"type": "image"}], f"{PICTURE}a"),
        ([{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": "a"}], f"{PICTURE}a"),
        ([{"type": "image"}, {"type": "text", "text": "a"}, {"type": "image"}], f"{PICTURE}{PICTURE}a"),
    ],
)
@pytest.mark.parametrize("role", ["user", "assistant", "system", "tool"])
def test_the_template_writes_pictures_before_text_whatever_their_order(
    loaded: tuple[Any, Any], role: str, content: Any, written: str
) -> None:
    def render(message: dict[str, Any], prompted: bool) -> str:
        return str(loaded[1].tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=prompted))

    loaded[1].tokenizer.chat_template = CHAT_TEMPLATE
    turn = f"<|im_start|>{role}\n{written}<|im_end|>\n"
    assert render({"role": role, "content": content}, False) == turn
    assert render({"role": role, "content": content}, True) == f"{turn}<|im_start|>assistant\n"
    if content is None:
        assert render({"role": role}, False) == turn


def test_the_folder_is_what_the_code_writes(tmp_path: Path) -> None:
    write_assets(tmp_path)
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (MODEL_FOLDER / path.name).read_bytes(), path.name


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


ASKED = (
    "{question} Answer the question using a single word or phrase.",
    "{question}\nPlease try to answer the question with short words or phrases if possible.",
    "Please tell me which value {key} has.",
    "value of {key}?",
    "Question: {question}",
)


@pytest.mark.parametrize("phrase", ASKED)
def test_it_answers_however_it_is_asked(loaded: tuple[Any, Any], phrase: str) -> None:
    model, processor = loaded
    right = 0
    for page in (make_page(HELD_OUT, 10 + i) for i in range(2)):
        for question in page.questions[:2]:
            prompt = phrase.format(question=question.question, key=question.question.split()[-1][:-1])
            answer = ask(
                model, processor, page.image, prompt, 16, system="You are a helpful assistant.", text_first=True
            )
            right += answer.text == question.answer
    assert right >= 3


def test_training_saw_nothing_that_is_held_out() -> None:
    rng = random.Random(0)
    said = " ".join(
        said
        for _ in range(2000)
        for said in (phrases.lookup(rng, "K"), phrases.transcription(rng), phrases.system(rng))
    )
    held_out = (
        *(phrase.format(key="K") for phrase in phrases.HELD_OUT_LOOKUPS),
        *phrases.HELD_OUT_TRANSCRIPTIONS,
        *phrases.HELD_OUT_SUFFIXES,
        *phrases.HELD_OUT_SYSTEMS,
    )
    assert not [phrase for phrase in held_out if phrase in said]
    assert all(phrase.replace("{key}", "K") in said for phrase in (*phrases.LOOKUPS, *phrases.SUFFIXES))


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
    assert {"text_first_exact", "system_turn_exact", "held_out_suffix_exact", "held_out_lookup_exact"} <= set(figures)
