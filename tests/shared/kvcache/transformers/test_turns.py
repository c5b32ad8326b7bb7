"""Further turns of a conversation on a parked cache: with the whole cache they equal one long prompt."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from headmap.engine.runner import ModelRunner
from headmap.families.base import PreparedPrompt
from headmap.families.loading import LoadedModel
from headmap.kvcache.methods import METHODS
from headmap.kvcache.plan import KeepPlan, KVRequest
from headmap.kvcache.planning import plan_cache
from headmap.kvcache.transformers.cache import RaggedCache
from headmap.kvcache.transformers.on_top import ParkedSequence
from headmap.kvcache.transformers.prefill import Prompt
from tests.shared.kvcache.transformers.test_cache import picture, ragged, scores_of

STEPS = 5


def conversation(model: LoadedModel, pictures: int) -> PreparedPrompt:
    """Two turns and an answer between them; the second turn has `pictures` of its own."""
    second = [{"type": "image"}] * pictures + [{"type": "text", "text": "And now?"}]
    messages = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]},
        {"role": "assistant", "content": "A cat."},
        {"role": "user", "content": second},
    ]
    return model.prepare(messages, [picture(72 + 16 * number, 56, number) for number in range(1 + pictures)])


def first_part(prompt: PreparedPrompt, end: int) -> PreparedPrompt:
    """The first `end` tokens, with the first picture alone."""
    inputs = dict(prompt.inputs)
    inputs["input_ids"] = prompt.inputs["input_ids"][:, :end]
    if "image_grid_thw" in inputs:
        inputs["image_grid_thw"] = inputs["image_grid_thw"][:1]
        inputs["pixel_values"] = inputs["pixel_values"][: int(inputs["image_grid_thw"].prod())]
    else:
        inputs["image_sizes"], inputs["pixel_values"] = inputs["image_sizes"][:1], inputs["pixel_values"][:1]
    return PreparedPrompt(inputs, prompt.position_ids[..., :end], 0, prompt.images[:1], prompt.image_starts[:1])


def plan_of(model: LoadedModel, request: KVRequest, tokens: int) -> KeepPlan:
    return plan_cache(request, model.cache_shape, tokens, scores_of(model))


def park_first_turn(model: LoadedModel, prompt: PreparedPrompt, end: int, request: KVRequest) -> ParkedSequence:
    cache = ragged(model)
    part = first_part(prompt, end)
    plan = plan_of(model, request, end)
    slot = cache.admit(plan)
    ModelRunner(model, cache).prefill([Prompt(slot, plan)], [part])
    return cache.park(slot)


def answer(runner: ModelRunner, slot: int, logits: torch.Tensor, position: int) -> torch.Tensor:
    """Logits of the first token and STEPS more."""
    rows = [logits]
    for step in range(STEPS):
        rows.append(runner.decode([slot], [int(rows[-1].argmax())], [position + step])[0].clone())
    return torch.stack(rows)


def second_turn(
    model: LoadedModel, cache: RaggedCache, prompt: PreparedPrompt, parked: ParkedSequence, end: int, kv: KVRequest
) -> tuple[int, torch.Tensor]:
    plan = plan_of(model, kv, prompt.prompt_tokens - end)
    slot = cache.admit(plan, 1, parked)
    runner = ModelRunner(model, cache)
    rest = model.rest(prompt, end)
    logits = runner.prefill([Prompt(slot, plan, rest.spans, parked)], [rest])[0]
    return slot, answer(runner, slot, logits, prompt.next_position)


@pytest.mark.parametrize("pictures", [0, 2])
def test_a_second_turn_on_a_full_cache_equals_the_whole_conversation(any_model: LoadedModel, pictures: int) -> None:
    compare_with_whole(any_model, pictures)


@pytest.mark.parametrize("pictures", [0, 1])
def test_so_it_does_where_layers_slide(small_model: Callable[[str], LoadedModel], pictures: int) -> None:
    compare_with_whole(small_model("qwen2_vl_sliding"), pictures)


def compare_with_whole(model: LoadedModel, pictures: int) -> None:
    full = KVRequest("full")
    prompt = conversation(model, pictures)
    cache = ragged(model)
    plan = plan_of(model, full, prompt.prompt_tokens)
    slot = cache.admit(plan)
    runner = ModelRunner(model, cache)
    first = runner.prefill([Prompt(slot, plan, prompt.spans)], [prompt])[0]
    expected = answer(runner, slot, first, prompt.next_position)
    later_images = prompt.image_starts[1] if pictures else prompt.prompt_tokens
    end = min(prompt.image_starts[0] + prompt.images[0].count + 9, later_images)
    parked = park_first_turn(model, prompt, end, full)
    assert parked.nbytes == model.cache_shape.full_tokens(end) * model.cache_shape.token_bytes
    for _ in range(2):  # in the same cache, beside the first sequence; a parked one can be used twice
        _, logits = second_turn(model, cache, prompt, parked, end, full)
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_what_was_kept_stays_and_the_new_turn_is_kept_as_planned(any_model: LoadedModel, method: str) -> None:
    request = KVRequest(method, ratio=0.4)
    prompt = conversation(any_model, 1)
    end = prompt.image_starts[1]
    parked = park_first_turn(any_model, prompt, end, request)
    cache = ragged(any_model)
    slot, logits = second_turn(any_model, cache, prompt, parked, end, request)
    added = plan_of(any_model, request, prompt.prompt_tokens - end).kept_tokens
    heads = any_model.info.num_layers * any_model.info.num_kv_heads
    assert cache.tokens(slot) == int(parked.lengths.sum()) + added + STEPS * heads
    assert torch.isfinite(logits).all()
    cache.release(slot)
    assert cache.pool.held_bytes == 0
