"""A head that looks at the asked word of a text gets the score, whatever the model would answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from headmap.errors import InvalidParameter
from headmap.families.loading import LoadedModel, load_model
from headmap.models import read_model
from headmap.scoring.answers import text_tokens
from headmap.scoring.page import Page, Question, Word
from headmap.scoring.pages import make_page
from headmap.scoring.profile import Profiler, score_pages
from headmap.scoring.reading import replay
from headmap.scoring.text_retrieval import lookup_prompt, word_regions
from tests.models import FAMILIES

BOX = (0, 0, 1, 1)
QUESTION = "What is it?"


def page_of(*words: str, answers: tuple[str, ...] = ()) -> Page:
    """Each word is a line of its own."""
    placed = tuple(Word(word, (0, 20 * row, 10, 20 * row + 10)) for row, word in enumerate(words))
    questions = tuple(Question(QUESTION, answer) for answer in answers)
    return Page(Image.new("RGB", (8, 8)), placed, questions)


def scores_of(loaded: LoadedModel, page: Page, max_new_tokens: int = 64) -> np.ndarray:
    (found,) = score_pages(loaded, [page], kind="text-retrieval", max_new_tokens=max_new_tokens)
    return found.scores


@pytest.fixture(scope="module")
def looks_at_z(model_folder: Callable[[str], Path]) -> LoadedModel:
    """A random model whose head 0 of layer 0 looks at a Z, wherever it stands, before it writes any token."""
    loaded = load_model(read_model("looks-at-z", model_folder("qwen2_vl")), device="cpu")
    text = loaded.family.text_model(loaded.model)
    layer, d = text.layers[0], 16
    slow = d // 2 - 1  # the slowest pair of RoPE's: it hardly turns over a prompt
    with torch.no_grad():
        z = layer.input_layernorm(text.embed_tokens.weight[text_tokens(loaded, "Z")[0]])
        attention = layer.self_attn
        for projection, weight, bias in ((attention.k_proj, z, 0.0), (attention.q_proj, 0.0, 10.0)):
            projection.weight[:d], projection.bias[:d] = 0, 0
            projection.weight[slow], projection.bias[slow] = weight, bias
    return loaded


def test_a_head_that_looks_at_the_asked_word_scores_one_over_its_tokens_for_each_token(
    looks_at_z: LoadedModel,
) -> None:
    asked = scores_of(looks_at_z, page_of("AB:456", "ZB:1239", "CD:777", answers=("1239",)))
    assert asked[0, 0] == 4 / len("ZB:1239")
    assert scores_of(looks_at_z, page_of("AB:456", "ZB:1239", "CD:777", answers=("456",)))[0, 0] == 0


def test_a_page_sums_its_questions_and_cuts_its_answers(looks_at_z: LoadedModel) -> None:
    page = page_of("AB:456", "ZB:1239", answers=("1239", "1239"))
    assert scores_of(looks_at_z, page)[0, 0] == pytest.approx(8 / 7)
    assert scores_of(looks_at_z, page, max_new_tokens=3)[0, 0] == pytest.approx(6 / 7)


def test_a_page_without_questions_is_asked_for_as_a_whole(looks_at_z: LoadedModel) -> None:
    (found,) = score_pages(looks_at_z, [page_of("AB:456", "ZB:1239")], kind="text-retrieval")
    assert (found.tokens_seen, found.tokens_matched) == (len("AB:456\nZB:1239"), len("AB:456ZB:1239"))
    # From the answer's own Z on the head looks there, so it reads the word's first token alone.
    assert found.scores[0, 0] == 1 / 7


def test_an_answer_that_is_not_on_the_page_scores_nothing(looks_at_z: LoadedModel) -> None:
    (found,) = score_pages(looks_at_z, [page_of("ZB:1239", answers=("5555", ""))], kind="text-retrieval")
    assert (found.tokens_seen, found.tokens_matched, found.hits, found.scores.any()) == (4, 0, 0, False)


def test_a_words_region_is_its_own_tokens_though_the_question_says_it_again(looks_at_z: LoadedModel) -> None:
    page = make_page(3, 0)
    words = [word.text for word in page.words]
    prompt = lookup_prompt(looks_at_z, page, page.questions[0].question)
    tokens = prompt.inputs["input_ids"][0]
    assert [looks_at_z.decode(tokens[region].tolist()) for region in word_regions(looks_at_z, prompt, words)] == words


@pytest.mark.parametrize("name", FAMILIES)
def test_every_familys_replay_is_eager_attention_over_the_true_answer(
    small_model: Callable[[str], LoadedModel], name: str
) -> None:
    loaded = small_model(name)
    page = make_page(3, 0)
    answer = text_tokens(loaded, page.questions[0].answer)
    prompt = lookup_prompt(loaded, page, page.questions[0].question)
    plain = AutoModelForImageTextToText.from_pretrained(
        loaded.info.folder, dtype=loaded.model.dtype, attn_implementation="eager"
    ).eval()
    tokens = torch.cat([prompt.inputs["input_ids"], torch.tensor([answer])], dim=1)
    positions = torch.arange(tokens.shape[1]).expand(*prompt.position_ids.shape[:-1], -1)
    with torch.no_grad():
        output = plain.model(input_ids=tokens, position_ids=positions, output_attentions=True)
    rows = [layer[0, :, prompt.prompt_tokens - 1 : -1].argmax(-1).numpy() for layer in output.attentions]
    read = replay(loaded, prompt, answer)
    assert read.answer == answer
    assert (read.winners == np.stack(rows)).all()


def test_a_profiler_sums_pages_of_text_without_looks(looks_at_z: LoadedModel) -> None:
    pages = [page_of("ZB:1239", "AB:456", answers=("1239",)), page_of("ZB:12", "AB:456", answers=("456",))]
    sums, looks = Profiler(looks_at_z).score(
        pages, kind="text-retrieval", rule="aligned", max_new_tokens=9, on_page=lambda done: None
    )
    assert (sums.pages, sums.tokens_seen, looks) == (2, 7, {})
    assert sums.sums[:, 0, 0].tolist() == [4 / 7, 0]


def test_another_kind_is_refused_by_its_name(looks_at_z: LoadedModel) -> None:
    with pytest.raises(InvalidParameter, match="kind: 'audio'"):
        next(score_pages(looks_at_z, [page_of("AB")], kind="audio"))  # type: ignore[arg-type]
