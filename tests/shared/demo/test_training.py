"""The training code: what it trains on is what the model sees in real use, and a run can be resumed."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)

from headmap.demo.assets import END, IMAGE, build_config, build_tokenizer
from headmap.demo.batches import IGNORE, NEWLINE, PAGE_END, PAGE_START, BatchMaker, cell_labels
from headmap.demo.evaluate import edit_distance
from headmap.demo.losses import CellHead, compute_losses, prepare
from headmap.demo.optim import orthogonalize
from headmap.demo.recipe import Recipe, Stage
from headmap.demo.train import Run, export_model, run_training
from headmap.scoring.pages import PAGE_CHARACTERS, TRANSCRIBE_PROMPT, draw_page, make_page

TINY = Recipe(
    steps=4,
    warmup_steps=1,
    stages=(Stage("glyphs", 0.25, 2, 2, 90, 1, reads=False), Stage("reading", 1.0, 2, 3, 90, 1)),
)


def tiny_config() -> Qwen2VLConfig:
    config = build_config(build_tokenizer())
    config.text_config.num_hidden_layers = 2
    config.text_config.layer_types = ["full_attention"] * 2
    config.vision_config.depth = 1
    return config


def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    device = torch.device("cpu")
    whole = Run(TINY, tmp_path / "whole", device, tiny_config())
    expected = [float(whole.train_step().total.detach()) for _ in range(4)]

    first = Run(TINY, tmp_path / "cut", device, tiny_config())
    losses = [float(first.train_step().total.detach()) for _ in range(2)]
    first.save()
    second = Run(TINY, tmp_path / "cut", device, tiny_config())
    assert second.step == 2
    losses += [float(second.train_step().total.detach()) for _ in range(2)]
    assert losses == pytest.approx(expected, rel=1e-5)


def test_a_checkpoint_of_another_seed_is_refused(tmp_path: Path) -> None:
    Run(TINY, tmp_path, torch.device("cpu"), tiny_config()).save()
    with pytest.raises(ValueError, match="made with seed 1, not 2"):
        Run(Recipe(seed=2), tmp_path, torch.device("cpu"), tiny_config())


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    Run(TINY, tmp_path, torch.device("cpu"), tiny_config()).save()
    with pytest.raises(ValueError, match="does not fit this model"):
        Run(TINY, tmp_path, torch.device("cpu"))


def test_a_run_leaves_a_model_folder_a_checkpoint_and_a_log(tmp_path: Path) -> None:
    recipe = Recipe(steps=1, stages=TINY.stages[:1])
    run = Run(recipe, tmp_path / "run", torch.device("cpu"), tiny_config())
    shown: list[str] = []
    run_training(run, tmp_path / "model", evaluate_every=100, pages=0, show=lambda step, line: shown.append(line))
    assert (tmp_path / "run" / "checkpoint.safetensors").is_file()
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert log[0]["step"] == 1
    assert log[0]["total"] > 0
    AutoModelForImageTextToText.from_pretrained(tmp_path / "model")
    assert len(shown) == 1


@pytest.mark.parametrize("worded", [False, True])
def test_every_turn_of_a_training_sequence_is_the_prompt_of_real_use(tmp_path: Path, worded: bool) -> None:
    """Same logits from the shared picture with its own mask and positions as from the processor and a plain forward."""
    recipe = Recipe(seed=3)
    run = Run(recipe, tmp_path / "run", torch.device("cpu"), tiny_config())
    with torch.no_grad():
        for param in run.model.parameters():  # away from the small first values, which make all logits alike
            param.copy_((param * 3).bfloat16().float())
    export_model(run.model, tmp_path / "model")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "model", dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(tmp_path / "model")
    pages = [draw_page("test/a", 3, 3, 1, 200), draw_page("test/b", 4, 4, 1, 200)]  # two sizes, so there is padding
    rngs = [random.Random(5), random.Random(105)] if worded else None  # the second page gets a system turn
    batch = BatchMaker(processor.tokenizer, 0, recipe.context).from_pages(pages, rngs)
    with torch.no_grad():
        ours = compute_losses(run.model, run.head, batch, True, 0.0)
    losses: dict[bool, list[torch.Tensor]] = {False: [], True: []}
    systems = 0
    for page, ids in zip(pages, batch.input_ids, strict=True):
        front, *turns = spelled(processor.tokenizer, ids).split("<|vision_end|>")
        system = re.match(r"<\|im_start\|>system\n(.*)<\|im_end\|>\n", front)
        systems += system is not None
        values = dict(word.text.split(":") for word in page.words)
        assert len(turns) == 1 + len(values)
        for number, turn in enumerate(turns):
            prompt, answer = re.fullmatch(
                r"(.*)<\|im_end\|>\n<\|im_start\|>assistant\n(.*)<\|im_end\|>", turn, re.S
            ).groups()
            assert answer == page.text if number == 0 else answer in values.values()
            if rngs is None:
                assert prompt == TRANSCRIBE_PROMPT if number == 0 else values[prompt.split()[-1][:-1]] == answer
            losses[number > 0].append(answer_losses(model, processor, page, system and system[1], prompt, answer))
    assert systems == worded
    assert float(ours.transcription) == pytest.approx(float(torch.cat(losses[False]).mean()), rel=1e-4)
    assert float(ours.lookup) == pytest.approx(float(torch.cat(losses[True]).mean()), rel=1e-4)


def spelled(tokenizer: PreTrainedTokenizerFast, ids: torch.Tensor) -> str:
    """The text of a training sequence without its padding and picture."""
    unsaid = {tokenizer.pad_token_id, tokenizer.convert_tokens_to_ids(IMAGE)}
    return tokenizer.decode([token for token in ids.tolist() if token not in unsaid])


@torch.no_grad()
def answer_losses(
    model: object, processor: object, page: object, system: str | None, prompt: str, answer: str
) -> torch.Tensor:
    """Cross-entropy of each token of the answer, by transformers' own path."""
    messages = [{"role": "system", "content": system}] if system else []
    messages += [{"role": "user", "content": [{"type": "text", "text": prompt}, {"type": "image"}]}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    asked = processor(text=[text], images=[page.image], return_tensors="pt")["input_ids"].shape[1]
    inputs = processor(text=[text + answer + END], images=[page.image], return_tensors="pt")
    logits = model(**inputs).logits[0, asked - 1 : -1]
    return torch.nn.functional.cross_entropy(logits, inputs["input_ids"][0, asked:], reduction="none")


def test_cells_know_what_stands_before_them_across_lines() -> None:
    page = make_page(3, 0)
    cols = page.image.width // 16
    labels = cell_labels(page, context=4)
    text = page.text.replace("\n", "|")

    def cell(line: int, offset: int) -> int:
        box = page.words[line].box
        return box[1] // 16 * cols + box[0] // 16 + offset

    def classes(part: str) -> list[int]:
        return [NEWLINE if c == "|" else 4 + PAGE_CHARACTERS.index(c) for c in part]

    second = text.index("|") + 1
    assert labels[cell(0, 0)].tolist() == [*classes(text[0]), NEWLINE, PAGE_START, PAGE_START, PAGE_START]
    assert labels[cell(1, 0)].tolist() == classes(text[second::-1][:5])
    last = page.words[-1].text
    assert labels[cell(-1, len(last))].tolist() == [PAGE_END, *classes(last[::-1][:4])]
    assert (labels[:, 0] != 0).sum() == len(text) + 1
    assert (labels[labels[:, 0] == 0, 1:] == IGNORE).all()


def test_training_pages_follow_seed_step_and_share() -> None:
    maker, stage = BatchMaker(build_tokenizer(), 0, 4), TINY.stages[1]
    same, other = maker.batch(stage, 5, 1), maker.batch(stage, 5, 0)
    assert torch.equal(same.patches, maker.batch(stage, 5, 1).patches)
    assert same.patches.shape != other.patches.shape or not torch.equal(same.patches, other.patches)


def test_without_reading_only_the_vision_tower_learns() -> None:
    torch.manual_seed(0)
    run_batch = BatchMaker(build_tokenizer(), 0, 4).batch(TINY.stages[0], 0)
    model = Qwen2VLForConditionalGeneration(tiny_config())
    prepare(model)
    head = CellHead(model.config.text_config.hidden_size, 4)
    compute_losses(model, head, run_batch, False, 0.2).total.backward()
    assert all(param.grad is None for param in model.model.language_model.parameters())
    assert all(param.grad is not None for param in model.model.visual.parameters())


def test_learning_rates_rise_stay_and_fall() -> None:
    recipe = Recipe(steps=1000, warmup_steps=10, decay_from=0.5, final_lr_share=0.1)
    shares = [recipe.lr_share(step) for step in range(1000)]
    assert shares[0] == pytest.approx(0.1)
    assert shares[10] == shares[499] == 1.0
    assert shares[-1] == pytest.approx(0.1, abs=0.01)
    assert np.all(np.diff(shares[500:]) < 0)


def test_updates_become_orthogonal() -> None:
    torch.manual_seed(0)
    for shape in ((2, 8, 32), (2, 32, 8)):
        singular = torch.linalg.svdvals(orthogonalize(torch.randn(shape)))
        assert singular.min() > 0.5
        assert singular.max() < 1.5


@pytest.mark.parametrize(
    ("a", "b", "edits"), [("", "", 0), ("abc", "abc", 0), ("abc", "", 3), ("kitten", "sitting", 3), ("ab", "ba", 2)]
)
def test_edit_distance(a: str, b: str, edits: int) -> None:
    assert edit_distance(a, b) == edit_distance(b, a) == edits
