"""The ragged cache under real models: parity with full attention, batched equals alone, memory that is really freed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from headmap.engine.greedy import generate_greedy
from headmap.engine.runner import ModelRunner
from headmap.families.base import PreparedPrompt
from headmap.families.loading import LoadedModel
from headmap.head_scores import HeadScores
from headmap.kvcache.methods import METHODS
from headmap.kvcache.plan import KVRequest
from headmap.kvcache.planning import plan_cache
from headmap.kvcache.transformers.attention import with_cache
from headmap.kvcache.transformers.cache import RaggedCache
from headmap.kvcache.transformers.generate import GenerateCache
from headmap.kvcache.transformers.head_masks import HeadMask

NEW_TOKENS = 8


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


def ask(model: LoadedModel, text: str = "What is it?", width: int = 72, height: int = 56) -> PreparedPrompt:
    content = [{"type": "image"}, {"type": "text", "text": text}]
    return model.prepare([{"role": "user", "content": content}], [picture(width, height)])


def scores_of(model: LoadedModel) -> HeadScores:
    info = model.info
    return HeadScores(np.random.default_rng(1).random((info.num_layers, info.num_heads)) ** 6, info.num_kv_heads)


def ragged(model: LoadedModel, block_size: int = 8) -> RaggedCache:
    return RaggedCache(model.cache_shape, dtype=torch.float32, device=torch.device("cpu"), block_size=block_size)


def run(
    model: LoadedModel, prompts: Sequence[PreparedPrompt], requests: Sequence[KVRequest]
) -> tuple[list[list[int]], list[torch.Tensor]]:
    """Greedy tokens and the logits of every step, all requests in one batch."""
    cache = ragged(model)
    runner = ModelRunner(model, cache)
    slots, logits = [], []
    for prompt, request in zip(prompts, requests, strict=True):
        plan = plan_cache(request, model.cache_shape, prompt.prompt_tokens, scores_of(model))
        slot = cache.admit(cache.reservation(plan, NEW_TOKENS))
        logits.append([runner.prefill(slot, plan, prompt)])
        assert cache.tokens(slot) == plan.kept_tokens
        slots.append(slot)
    for step in range(NEW_TOKENS - 1):
        positions = [prompt.next_position + step for prompt in prompts]
        rows = runner.decode(slots, [int(row[-1].argmax()) for row in logits], positions)
        for row, new in zip(logits, rows, strict=True):
            row.append(new)
    assert (cache.tables.lengths.sum((0, 2)) * model.cache_shape.token_bytes <= cache.reserved_bytes).all()
    for slot in slots:
        cache.release(slot)
    assert cache.allocated_bytes == 0
    stacked = [torch.stack(row) for row in logits]
    return [row.argmax(-1).tolist() for row in stacked], stacked


def test_full_equals_transformers_own_generation(any_model: LoadedModel) -> None:
    prompt = ask(any_model)
    reference = AutoModelForImageTextToText.from_pretrained(any_model.info.folder, attn_implementation="sdpa").eval()
    inputs = dict(prompt.inputs)
    if any_model.family.name == "qwen2_vl":
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == 4).int()
    output = reference.generate(
        **inputs, max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=None, output_logits=True,
        return_dict_in_generate=True,
    )  # fmt: skip
    tokens, logits = run(any_model, [prompt], [KVRequest("full")])
    assert tokens[0] == output.sequences[0, prompt.prompt_tokens :].tolist()
    torch.testing.assert_close(logits[0], torch.cat(output.logits), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_a_budget_of_the_whole_prompt_equals_full(any_model: LoadedModel, method: str) -> None:
    prompt = ask(any_model)
    _, full = run(any_model, [prompt], [KVRequest("full")])
    for request in (KVRequest(method, ratio=1.0), KVRequest(method, budget=prompt.prompt_tokens + 3)):
        _, logits = run(any_model, [prompt], [request])
        assert torch.equal(logits[0], full[0])


def test_sliding_layers_decode_as_in_transformers(small_model: Callable[[str], LoadedModel]) -> None:
    """Prompts shorter than the window, and longer; decoding past its end; the other layer budgeted or not."""
    model = small_model("qwen2_vl_sliding")
    assert model.cache_shape.sliding_layers == (1, 2)
    reference = AutoModelForImageTextToText.from_pretrained(model.info.folder, attn_implementation="sdpa").eval()
    prompts = [ask(model, width=24, height=16, text="W"), ask(model, width=96, height=80)]
    assert prompts[0].prompt_tokens < 30 < prompts[0].prompt_tokens + NEW_TOKENS
    _, logits = run(model, prompts, [KVRequest("full")] * 2)
    for prompt, own in zip(prompts, logits, strict=True):
        kinds = (prompt.inputs["input_ids"] == 4).int()
        output = reference.generate(
            **prompt.inputs, mm_token_type_ids=kinds, max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=None,
            output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
        torch.testing.assert_close(own, torch.cat(output.logits), atol=1e-4, rtol=1e-4)
    together, _ = run(model, prompts, [KVRequest("sparsemm", ratio=0.3), KVRequest("adakv", budget=9)])
    assert together[0] == run(model, prompts[:1], [KVRequest("sparsemm", ratio=0.3)])[0][0]
    assert together[1] == run(model, prompts[1:], [KVRequest("adakv", budget=9)])[0][0]


def test_batched_equals_alone_for_mixed_methods_and_lengths(any_model: LoadedModel) -> None:
    requests = [KVRequest(method, ratio=ratio) for method in METHODS for ratio in (0.1, 0.4)]
    requests += [KVRequest("snapkv", budget=1), KVRequest("sparsemm", budget=2), KVRequest("adakv", budget=3)]
    requests += [KVRequest("sparsemm", budget=30, allocation="paper"), KVRequest("full")]
    prompts = [ask(any_model, "Q" * (1 + index), 40 + 8 * index) for index in range(len(requests))]
    tokens, logits = run(any_model, prompts, requests)
    for index, (prompt, request) in enumerate(zip(prompts, requests, strict=True)):
        alone, alone_logits = run(any_model, [prompt], [request])
        assert tokens[index] == alone[0], request
        torch.testing.assert_close(logits[index], alone_logits[0], atol=1e-4, rtol=1e-4)


def test_eviction_changes_what_is_decoded(any_model: LoadedModel) -> None:
    """Guards the parity tests: a cache that kept everything would pass them."""
    prompt = ask(any_model)
    _, full = run(any_model, [prompt], [KVRequest("full")])
    _, small = run(any_model, [prompt], [KVRequest("snapkv", ratio=0.1)])
    torch.testing.assert_close(small[0][0], full[0][0], atol=1e-4, rtol=1e-4)  # prefill sees everything
    assert (small[0][1:] - full[0][1:]).abs().max() > 0.01


def test_what_a_failed_request_left_does_not_reach_the_next(small_model: Callable[[str], LoadedModel]) -> None:
    model = small_model("qwen2_vl")
    prompt = ask(model)
    cache = ragged(model)
    runner = ModelRunner(model, cache)
    plan = plan_cache(KVRequest("full"), model.cache_shape, prompt.prompt_tokens, None)
    bystander = cache.admit(cache.reservation(plan, 4))
    expected = runner.prefill(bystander, plan, prompt)
    poisoned = cache.admit(cache.reservation(plan, 4))
    runner.prefill(poisoned, plan, prompt)
    for store in cache.layers:
        gone = (store.owner >= model.cache_shape.num_kv_heads).nonzero()[:, 0]
        with torch.inference_mode():
            store.keys[gone] = store.values[gone] = torch.nan
    cache.release(poisoned)
    slot = cache.admit(cache.reservation(plan, 4))
    assert torch.equal(runner.prefill(slot, plan, prompt), expected)
    logits = runner.decode([bystander, slot], [5, 5], [prompt.next_position] * 2)
    assert torch.isfinite(logits).all()
    torch.testing.assert_close(logits[0], logits[1])


def test_a_step_that_failed_leaves_no_token_behind(any_model: LoadedModel) -> None:
    """Its blocks, all opened by that step, are handed out in another order once a sequence has gone."""
    prompts = [ask(any_model, "Q" * (1 + index)) for index in range(3)]
    request = KVRequest("snapkv", budget=24)
    expected, _ = run(any_model, prompts[1:], [request] * 2)
    runner = ModelRunner(any_model, ragged(any_model, block_size=8))
    cache = runner.cache
    slots, tokens = [], []
    for prompt in prompts:
        plan = plan_cache(request, any_model.cache_shape, prompt.prompt_tokens, None)
        slots.append(cache.admit(cache.reservation(plan, NEW_TOKENS)))
        tokens.append([int(runner.prefill(slots[-1], plan, prompt).argmax())])

    def fail(*_: object) -> None:
        raise RuntimeError("at the end of the step")

    hook = any_model.family.text_model(any_model.model).norm.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="at the end of the step"):
        runner.decode(slots, [row[-1] for row in tokens], [prompt.next_position for prompt in prompts])
    hook.remove()
    cache.release(slots[0])
    for step in range(NEW_TOKENS - 1):
        positions = [prompt.next_position + step for prompt in prompts[1:]]
        logits = runner.decode(slots[1:], [row[-1] for row in tokens[1:]], positions)
        for row, token in zip(tokens[1:], logits.argmax(-1).tolist(), strict=True):
            row.append(token)
    assert tokens[1:] == expected


def test_memory_of_evicted_tokens_is_freed(small_model: Callable[[str], LoadedModel]) -> None:
    model = small_model("llava_next_llama")
    prompt = ask(model, width=64, height=64)
    sizes = {}
    for ratio in (1.0, 0.25):
        cache = ragged(model, block_size=1)
        request = KVRequest("sparsemm", ratio=ratio)
        plan = plan_cache(request, model.cache_shape, prompt.prompt_tokens, scores_of(model))
        ModelRunner(model, cache).prefill(cache.admit(cache.reservation(plan, 0)), plan, prompt)
        sizes[ratio] = cache.allocated_bytes
    assert sizes[1.0] == model.cache_shape.full_tokens(prompt.prompt_tokens) * model.cache_shape.token_bytes
    assert sizes[0.25] == prompt.prompt_tokens // 4 * 12 * model.cache_shape.token_bytes


@pytest.mark.parametrize(
    "request_", [KVRequest("full"), KVRequest("sparsemm", ratio=0.3), KVRequest("adakv", budget=20)]
)
def test_the_recipe_for_transformers_generate(any_model: LoadedModel, request_: KVRequest) -> None:
    prompt = ask(any_model)
    cache = GenerateCache(any_model.model, request_, scores_of(any_model))
    inputs = dict(prompt.inputs)
    if any_model.family.name == "qwen2_vl":
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == 4).int()
    output = any_model.model.generate(
        **inputs, **with_cache(any_model.model, cache), max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=None
    )
    tokens, _ = run(any_model, [prompt], [request_])
    assert output[0, prompt.prompt_tokens :].tolist() == tokens[0]
    heads = any_model.info.num_layers * any_model.info.num_kv_heads
    assert cache.plan is not None
    assert cache.kept_tokens == cache.plan.kept_tokens + (NEW_TOKENS - 1) * heads
    assert cache.nbytes == cache.kept_tokens * any_model.cache_shape.token_bytes


def test_the_model_refuses_to_run_without_our_cache(small_model: Callable[[str], LoadedModel]) -> None:
    model = small_model("qwen2_vl").model
    with pytest.raises(TypeError, match="needs a headmap cache"):
        model(input_ids=torch.tensor([[5, 6, 7]]))


def test_the_cache_is_handed_over_by_the_name_that_this_transformers_has_for_it(any_model: LoadedModel) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "`?past_key_values", FutureWarning)
        run(any_model, [ask(any_model)], [KVRequest("snapkv", budget=20)])


def test_generate_cache_refuses_a_batch(small_model: Callable[[str], LoadedModel]) -> None:
    model = small_model("qwen2_vl").model
    with pytest.raises(ValueError, match="a batch of 2"):
        model(input_ids=torch.tensor([[5, 6], [7, 8]]), **with_cache(model, GenerateCache(model, KVRequest("full"))))


def test_masked_heads_add_nothing(small_model: Callable[[str], LoadedModel]) -> None:
    """Masking a head equals a model whose output projection has no weights for it."""
    model = small_model("llava_next_llama")
    prompt = ask(model)
    masked = generate_greedy(model, [prompt], max_new_tokens=6, mask=HeadMask([(1, 0), (1, 2), (2, 3)]))
    assert masked != generate_greedy(model, [prompt], max_new_tokens=6)
    d = model.cache_shape.head_dim
    saved = {}
    for layer_idx, head in ((1, 0), (1, 2), (2, 3)):
        weight = model.model.model.language_model.layers[layer_idx].self_attn.o_proj.weight.data
        saved[layer_idx, head] = weight[:, head * d : (head + 1) * d].clone()
        weight[:, head * d : (head + 1) * d] = 0
    try:
        assert generate_greedy(model, [prompt], max_new_tokens=6) == masked
    finally:
        for (layer_idx, head), columns in saved.items():
            weight = model.model.model.language_model.layers[layer_idx].self_attn.o_proj.weight.data
            weight[:, head * d : (head + 1) * d] = columns
