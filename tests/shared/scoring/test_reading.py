"""Whatever was guessed, a page's reading is that of eager attention, one token after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForImageTextToText, DynamicCache

from headmap.families.base import PreparedPrompt
from headmap.families.loading import LoadedModel, load_model
from headmap.kvcache.transformers.attention import with_cache
from headmap.models import find_model
from headmap.scoring import probe, reading
from headmap.scoring.pages import make_page
from headmap.scoring.profile import expected_tokens, transcription_prompt
from headmap.scoring.reading import Reading, read_pages
from headmap.settings import DEMO_MODEL, Settings

STEPS = 24


def plain_reading(loaded: LoadedModel, prompt: PreparedPrompt, steps: int) -> Reading:
    """The plain way: eager attention, a token at a time, every row in full."""
    model = AutoModelForImageTextToText.from_pretrained(
        loaded.info.folder, dtype=loaded.model.dtype, attn_implementation="eager"
    ).eval()
    answer: list[int] = []
    rows = []
    held = with_cache(model, DynamicCache(config=model.config.get_text_config()))
    kept = {"output_attentions": True, "use_cache": True, **held}
    with torch.no_grad():
        output = model.model(**prompt.inputs, position_ids=prompt.position_ids, **kept)
        while True:
            rows.append([layer[0, :, -1].argmax(-1).tolist() for layer in output.attentions])
            answer.append(int(model.lm_head(output.last_hidden_state[0, -1]).argmax()))
            if len(answer) == steps or answer[-1] in loaded.eos_token_ids:
                return Reading(answer, np.array(rows).transpose(1, 2, 0))
            positions = loaded.family.decode_positions(torch.tensor([prompt.next_position + len(answer) - 1]))
            output = loaded.family.text_model(model)(
                input_ids=torch.tensor([answer[-1:]]), position_ids=positions, **kept
            )


def assert_same(ours: Reading, plain: Reading) -> None:
    assert ours.answer == plain.answer
    assert (ours.winners == plain.winners).all()


def read(loaded: LoadedModel, prompt: PreparedPrompt, expected: Sequence[int], steps: int = STEPS) -> Reading:
    return read_pages(loaded, [prompt], [expected], max_new_tokens=steps)[0]


@pytest.mark.parametrize("max_logits", [1, 1 << 24])
def test_any_guess_gives_the_plain_reading(
    any_model: LoadedModel, max_logits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "MAX_LOGITS", max_logits)  # a row at a time, and all at once
    monkeypatch.setattr(reading, "MAX_LOGITS", max_logits)
    monkeypatch.setattr(probe, "ROOM", 3)
    prompt = transcription_prompt(any_model, make_page(1, 0))
    plain = plain_reading(any_model, prompt, STEPS)
    answer = plain.answer
    misread = [*answer[:5], (answer[5] + 1) % 60, *answer[6:]]
    for expected in ([], answer, answer[:9], [*answer, 7, 8, 9], misread, [*answer[:5], *answer[8:]], [9] * 40):
        assert_same(read(any_model, prompt, expected), plain)


def test_pages_read_together_are_read_as_alone(any_model: LoadedModel) -> None:
    prompts = [transcription_prompt(any_model, make_page(1, index)) for index in range(3)]
    alone = [read(any_model, prompt, []) for prompt in prompts]
    expected = [alone[0].answer, alone[1].answer[:4], []]  # done at once, soon, and late
    together = read_pages(any_model, prompts, expected, max_new_tokens=STEPS)
    for ours, plain in zip(together, alone, strict=True):
        assert_same(ours, plain)


@cache
def _prompt_and_reading(loaded: LoadedModel) -> tuple[PreparedPrompt, Reading]:
    prompt = transcription_prompt(loaded, make_page(1, 1))
    return prompt, plain_reading(loaded, prompt, STEPS)


@given(data=st.data())
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_draft_changes_the_reading(small_model: Callable[[str], LoadedModel], data: st.DataObject) -> None:
    loaded = small_model("qwen2_vl")
    prompt, plain = _prompt_and_reading(loaded)
    runs = st.one_of(
        st.lists(st.integers(5, 60), max_size=6),
        st.builds(lambda a, b: plain.answer[a:b], st.integers(0, STEPS), st.integers(0, STEPS)),
    )
    expected = [token for run in data.draw(st.lists(runs, max_size=4)) for token in run]
    steps = data.draw(st.integers(1, STEPS))
    ours = read(loaded, prompt, expected, steps)
    assert_same(ours, Reading(plain.answer[:steps], plain.winners[:, :, :steps]))


@pytest.mark.parametrize("guessed", [True, False])
def test_an_answer_ends_with_the_first_end_token(small_model: Callable[[str], LoadedModel], guessed: bool) -> None:
    loaded = small_model("qwen2_vl")
    prompt, plain = _prompt_and_reading(loaded)
    ending = replace(loaded, eos_token_ids=frozenset(plain.answer[6:8]))
    end = next(index for index, token in enumerate(plain.answer, start=1) if token in ending.eos_token_ids)
    ours = read(ending, prompt, plain.answer if guessed else [])
    assert_same(ours, Reading(plain.answer[:end], plain.winners[:, :, :end]))


def test_a_model_that_reads_needs_one_pass_for_a_page() -> None:
    loaded = load_model(find_model(DEMO_MODEL, Settings()), device="cpu")
    page = make_page(13, 0)
    prompt, expected = transcription_prompt(loaded, page), expected_tokens(loaded, page)
    passes: list[None] = []
    (ours,) = read_pages(loaded, [prompt], [expected], max_new_tokens=200, on_step=lambda: passes.append(None))
    assert loaded.decode(ours.answer) == page.text
    assert ours.answer[-1] in loaded.eos_token_ids
    assert len(passes) == 1
    assert_same(ours, plain_reading(loaded, prompt, 200))


def test_control_tokens_on_a_page_are_not_expected(small_model: Callable[[str], LoadedModel]) -> None:
    loaded = small_model("qwen2_vl")
    page = make_page(1, 0)
    words = (replace(page.words[0], text="AB<image>C"), *page.words[1:])
    assert loaded.decode(expected_tokens(loaded, replace(page, words=words))) == "AB"


class Largest(TorchDispatchMode):
    """Bytes of the largest tensor that any operation makes."""

    nbytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(tensor, torch.Tensor):
                self.nbytes = max(self.nbytes, tensor.untyped_storage().nbytes())
        return made


def test_no_tensor_grows_with_the_square_of_the_prompt(small_model: Callable[[str], LoadedModel]) -> None:
    loaded = small_model("qwen2_vl")
    page = make_page(1, 0)
    tokens, largest = [], []
    for size in (1, 2):
        width, height = (size * side // 3 for side in page.image.size)
        prompt = transcription_prompt(loaded, replace(page, image=page.image.resize((width, height))))
        with Largest() as mode:
            read(loaded, prompt, [5] * 8)
        tokens.append(prompt.image_tokens)
        largest.append(mode.nbytes)
    assert tokens[1] > 3 * tokens[0]
    assert largest[1] <= 1.1 * largest[0] * tokens[1] / tokens[0]
    assert largest[1] < 4 * loaded.info.num_heads * tokens[1] ** 2  # as float32 attention weights would be
