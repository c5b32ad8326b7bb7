"""`headmap/smol-ocr`: what its eyes are trained on is what it sees in use, and a build is the sum of its parts."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaModel, LlavaForConditionalGeneration

from headmap.datasets.made_up.plain import draw_form, draw_note, draw_receipt
from headmap.datasets.sources import MADE_UP, MadeUpPages
from headmap.demo.assets import END, build_tokenizer
from headmap.demo.smol import build as built
from headmap.demo.smol.assets import NEWLINE, build_config, write_assets
from headmap.demo.smol.batches import CELL_CHARACTERS, IGNORE, Batch, BatchMaker, cell_characters
from headmap.demo.smol.language_model import LanguageModel, check
from headmap.demo.smol.model import merge, with_picture_tokens
from headmap.demo.smol.recipe import Recipe, Stage
from headmap.demo.smol.train import Run, export_trained
from headmap.evaluation.cases import make_cases
from headmap.evaluation.metrics import get_metric
from headmap.evaluation.questions import PageQuestions
from headmap.evaluation.runner import evaluate_questions
from headmap.families.loading import load_model
from headmap.models import find_model, hub_cache, read_model
from headmap.scoring.pages import CELL, Page, make_page
from headmap.settings import Settings

SMALL = Stage("small", 1.0, 200, 400, 2)
TINY = Recipe(glyph_steps=2, cycles=(1, 1), warmup_steps=1, glyphs=SMALL, stages=(SMALL,))
CPU = torch.device("cpu")


def language_model() -> LanguageModel:
    tokenizer = build_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    return LanguageModel(config, dict(LlamaModel(config).state_dict()), tokenizer)


def trained_run(folder: Path) -> Run:
    """A run whose updates are not zero."""
    run = Run(TINY, folder, language_model(), CPU)
    torch.manual_seed(1)
    for parameter in run.trained["updates"].parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return run


def turns(batch: Batch, row: int) -> list[tuple[list[int], list[int]]]:
    """The tokens that each answer follows, and the answer, as the mask and the labels tell them."""
    found: dict[int, list[int]] = {}
    for place in (batch.labels[row] != IGNORE).nonzero().flatten().tolist():
        start = int((batch.mask[row, 0, place] == 0).nonzero().flatten()[batch.positions[row, place]])
        assert start == place, "a token sees itself last"
        first = place
        while first - 1 in found or int(batch.labels[row, first - 1]) != IGNORE:
            first -= 1
        found.setdefault(first, []).append(int(batch.labels[row, place]))
    result = []
    for first, answer in found.items():
        seen = (batch.mask[row, 0, first] == 0).nonzero().flatten()
        assert batch.positions[row, seen].tolist() == list(range(len(seen))), "positions are those of a prompt alone"
        result.append((batch.input_ids[row, seen].tolist(), answer))
    return result


@pytest.mark.parametrize("seed", range(2))
def test_every_turn_of_a_training_sequence_is_the_prompt_of_real_use(tmp_path: Path, seed: int) -> None:
    run = trained_run(tmp_path)
    write_folder(run, tmp_path / "model")
    loaded = load_model(read_model("tiny", tmp_path / "model"), device="cpu", dtype="float32")
    pages = [make_page(seed, 0), draw_form(f"test/{seed}", (300, 500))]
    batch = BatchMaker(loaded.tokenizer, 0).from_pages(pages, [random.Random(f"{seed}/{n}") for n in range(2)])
    checked = 0
    for row, page in enumerate(pages):
        for prompt, answer in turns(batch, row):
            text = loaded.tokenizer.decode(prompt)
            system, asked = "", text
            if text.startswith("<|im_start|>system"):
                system, _, asked = text.removeprefix("<|im_start|>system\n").partition(f"{END}\n")
            before, _, after = asked.removeprefix("<|im_start|>user\n").removesuffix("assistant\n").partition("[IMG]")
            after = after.rpartition("[IMG_END]")[2].split(END)[0]
            content = [{"type": "text", "text": before}, {"type": "image"}, {"type": "text", "text": after}]
            messages = [{"role": "user", "content": [part for part in content if part.get("text") != ""]}]
            if system:
                messages.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
            assert loaded.prepare(messages, [page.image]).inputs["input_ids"][0].tolist() == prompt
            assert answer[-1] == loaded.tokenizer.eos_token_id
            checked += 1
    assert checked >= 2


def write_folder(run: Run, folder: Path) -> None:
    export_trained(run.trained, folder / "trained")
    parts = with_picture_tokens(language_model())
    config = build_config(parts.config, parts.tokenizer)
    save_file(merge(parts.weights, load_file(folder / "trained")), folder / "model.safetensors", {"format": "pt"})
    (folder / "trained").unlink()
    config.save_pretrained(folder)
    write_assets(folder, parts.tokenizer)


def test_a_merged_model_is_the_trained_one(tmp_path: Path) -> None:
    run = trained_run(tmp_path / "run")
    write_folder(run, tmp_path / "model")
    merged = LlavaForConditionalGeneration.from_pretrained(tmp_path / "model", dtype=torch.float32)
    ours = run.model.model.language_model.layers[1].self_attn.k_proj.weight.float()
    theirs = merged.model.language_model.layers[1].self_attn.k_proj.weight
    torch.testing.assert_close(ours, theirs, atol=2e-2, rtol=2e-2)
    untouched = merge(with_picture_tokens(language_model()).weights, {}, updated=False)
    place = "model.language_model.layers.1.self_attn.k_proj.weight"
    assert not torch.allclose(untouched[place].float(), theirs, atol=0.1)
    batch = run._batches.batch(SMALL, 0)
    with torch.no_grad():
        seen = run._see(batch)
        picture = merged.model.get_image_features(batch.pixel_values, image_sizes=batch.image_sizes)
    assert len(seen) == len(batch.cells)
    features = getattr(picture, "pooler_output", picture)
    torch.testing.assert_close(torch.cat(tuple(features)), seen, atol=5e-2, rtol=5e-2)


def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    whole = Run(TINY, tmp_path / "whole", language_model(), CPU)
    expected = [whole.train_step() for _ in range(4)]
    first = Run(TINY, tmp_path / "cut", language_model(), CPU)
    figures = [first.train_step() for _ in range(3)]
    first.save()
    second = Run(TINY, tmp_path / "cut", language_model(), CPU)
    assert second.step == 3
    figures.append(second.train_step())
    for ours, theirs in zip(figures, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)


def test_training_leaves_the_language_model_as_it_was(tmp_path: Path) -> None:
    run = Run(TINY, tmp_path, language_model(), CPU)
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    while run.step < run.steps:
        run.train_step()
    changed = {name for name, value in run.model.state_dict().items() if not torch.equal(value, before[name])}
    assert all("vision_tower" in name or "projector" in name or "parametrizations" in name for name in changed)
    assert {name.rsplit(".", 1)[1] for name in changed if "parametrizations" in name} == {"down", "up"}


@pytest.mark.parametrize(
    "page", [make_page(1, 2), *(draw("test/cells", (300, 500)) for draw in (draw_form, draw_receipt, draw_note))]
)
def test_the_cells_spell_the_page(page: Page) -> None:
    cols = page.image.width // CELL
    text = "".join(CELL_CHARACTERS[index] for index in cell_characters(page).tolist())
    rows = [text[start : start + cols] for start in range(0, len(text), cols)]
    assert [" ".join(row.split()) for row in rows if row.strip()] == page.text.split("\n")
    assert text.count(NEWLINE) == 1


def test_each_cycle_goes_through_all_stages_and_ends_with_the_smallest_steps() -> None:
    recipe = Recipe(cycles=(100, 50))
    shares = [recipe.lr_share(step) for step in range(recipe.steps)]
    assert max(shares[:100]) == max(shares[:40]) > 0.8
    assert shares[99] == pytest.approx(0.01)
    assert shares[149] == pytest.approx(0.02)
    assert [recipe.stage_at(step).name for step in (0, 99, 100, 149)] == ["small", "both", "small", "both"]
    with pytest.raises(ValueError, match="step 150 is beyond the recipe's 150"):
        recipe.stage_at(150)


def test_a_model_is_named_by_what_it_is_made_of(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(b"one")
    other.write_bytes(b"other")
    names = {built.revision(one), built.revision(other), built.revision(one, updated=False)}
    assert len(names) == 3
    assert {len(name) for name in names} == {40}


def test_another_file_than_smollm2s_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    with pytest.raises(RuntimeError, match=r"model\.gguf has the checksum [0-9a-f]{64}, not "):
        check(path)


def test_what_was_trained_is_small_and_fits() -> None:
    assert built.TRAINED.stat().st_size <= 12 << 20
    tensors = load_file(built.TRAINED)
    assert sum(name.endswith(".up") for name in tensors) == 30 * 4
    glyphs: Tensor = tensors["vision.projector.linear_2.weight"]
    assert glyphs.shape == (576, 576)


def test_the_built_model_reads(tmp_path: Path) -> None:
    folder = hub_cache() / "models--headmap--smol-ocr" / "snapshots" / built.revision(built.TRAINED)
    if not (folder / "config.json").is_file():
        pytest.skip("`make smol` has not built it here: that fetches 93 MB, and tests use no network")
    info = find_model(built.NAME, Settings(data_dir=tmp_path, models=(built.NAME,)))
    assert (info.num_layers, info.num_heads, info.num_kv_heads) == (30, 9, 3)
    loaded = load_model(info, device="cpu", dtype="float32")
    asked = PageQuestions(MadeUpPages(MADE_UP["plain-forms"])).questions(12, 0, 1)
    (row,) = evaluate_questions(loaded, asked, make_cases(["full"]), None, get_metric("exact"), max_new_tokens=32)
    assert row.score == 1
