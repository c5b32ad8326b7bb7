"""Prompts packed in one row are, hidden state by hidden state, what each is alone."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from headmap.families.base import PackedPrompts, PreparedPrompt
from headmap.families.loading import LoadedModel
from headmap.kvcache.transformers.attention import with_cache
from headmap.scoring.probe import Past, ProbeCache, Watched
from tests.shared.families.seeing import ask, noise

SIZES = ((72, 56), (40, 96), (30, 30), (96, 33))


def prompt(loaded: LoadedModel, number: int, count: int) -> PreparedPrompt:
    """The `number`-th prompt, with `count` pictures of other sizes and pixels than those of the others."""
    pictures = [
        Image.fromarray(noise(*SIZES[(number + place) % len(SIZES)], seed=10 * number + place))
        for place in range(count)
    ]
    return ask(loaded, pictures, "Which is it?" + "abc" * number)


@torch.inference_mode()
def hidden(loaded: LoadedModel, packed: PackedPrompts) -> tuple[torch.Tensor, ...]:
    """Each prompt's hidden states, (its tokens, hidden size)."""
    own = [Watched(Past(), one.prompt_tokens, rows=1, spans=one.spans) for one in packed.prompts]
    model = loaded.model.model
    output = model(
        **packed.inputs,
        position_ids=packed.position_ids,
        use_cache=True,
        **with_cache(model, ProbeCache(own, loaded.cache_shape)),
    )
    return tuple(output.last_hidden_state[0, start:end] for start, end in packed.bounds)


@pytest.mark.parametrize("counts", [(1, 2), (0, 0, 0), (2, 0, 1, 1), (0, 2, 1), (2, 2)], ids=str)
def test_packed_equals_alone(family_model: LoadedModel, counts: tuple[int, ...]) -> None:
    family = family_model.family
    prompts = [prompt(family_model, number, count) for number, count in enumerate(counts)]
    packed = family.pack(prompts)
    assert packed.inputs["input_ids"].shape == (1, sum(one.prompt_tokens for one in prompts))
    assert any(counts) or set(packed.inputs) == {"input_ids"}
    assert [end - start for start, end in packed.bounds] == [one.prompt_tokens for one in prompts]
    for one, together in zip(prompts, hidden(family_model, packed), strict=True):
        (alone,) = hidden(family_model, family.pack([one]))
        torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


def test_a_pack_of_one_is_the_prompt_itself(family_model: LoadedModel) -> None:
    one = prompt(family_model, 0, 2)
    packed = family_model.family.pack([one])
    assert packed.bounds == ((0, one.prompt_tokens),)
    assert packed.last_tokens == (one.prompt_tokens - 1,)
    assert all(packed.inputs[key] is one.inputs[key] for key in one.inputs if key != "input_ids")
    assert torch.equal(packed.position_ids, one.position_ids)


def test_what_a_further_turn_adds_packs_too_or_says_that_it_does_not(family_model: LoadedModel) -> None:
    family, several = family_model.family, prompt(family_model, 1, 3)
    two = family_model.rest(several, several.image_starts[1])
    other = prompt(family_model, 2, 1)
    for one, together in zip((two, other), hidden(family_model, family.pack([two, other])), strict=True):
        (alone,) = hidden(family_model, family.pack([one]))
        torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
    left = family_model.rest(several, several.image_starts[2])
    assert family.packs(left) == (family.name != "llava_onevision")
    if not family.packs(left):
        with pytest.raises(ValueError, match="prompts"):
            family.pack([left, other])
