"""The ragged cache under real models: parity with full attention, batched equals alone, memory that is really freed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, LlamaConfig, LlamaForCausalLM

from headmap.engine.greedy import generate_greedy
from headmap.engine.runner import ModelRunner
from headmap.families.base import PreparedPrompt
from headmap.families.loading import LoadedModel
from headmap.head_scores import HeadScores
from headmap.kvcache.methods import METHODS
from headmap.kvcache.plan import KeepPlan, KVRequest
from headmap.kvcache.planning import plan_cache
from headmap.kvcache.pool.pool import Pool
from headmap.kvcache.transformers.attention import use_headmap_attention, with_cache
from headmap.kvcache.transformers.cache import RaggedCache
from headmap.kvcache.transformers.generate import GenerateCache
from headmap.kvcache.transformers.head_masks import HeadMask
from headmap.kvcache.transformers.prefill import Prompt

NEW_TOKENS = 8


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


def ask(model: LoadedModel, text: str = "What is it?", width: int = 72, height: int = 56) -> PreparedPrompt:
    content = [{"type": "image"}, {"type": "text", "text": text}]
    return model.prepare([{"role": "user", "content": content}], [picture(width, height)])


def scores_of(model: LoadedModel) -> HeadScores:
    info = model.info
    return HeadScores(np.random.default_rng(1).random((info.num_layers, info.num_heads)) ** 6, info.num_kv_heads)


def ragged(model: LoadedModel, page_tokens: int = 16, pages: int = 8000, slots: int = 24) -> RaggedCache:
    pool = Pool(
        model.cache_shape,
        memory_bytes=pages * page_tokens * model.cache_shape.token_bytes,
        slots=slots,
        max_tokens=2000,
        dtype=torch.float32,
        device=torch.device("cpu"),
        page_tokens=page_tokens,
    )
    return RaggedCache(pool)


def plan_of(model: LoadedModel, request: KVRequest, prompt: PreparedPrompt) -> KeepPlan:
    return plan_cache(request, model.cache_shape, prompt.prompt_tokens, scores_of(model))


def start(runner: ModelRunner, prompt: PreparedPrompt, plan: KeepPlan, new_tokens: int = 1) -> tuple[int, torch.Tensor]:
    """Admit and prefill one prompt: its slot and its logits, (vocab,)."""
    slot = runner.cache.admit(plan, new_tokens)
    return slot, runner.prefill([Prompt(slot, plan, prompt.spans)], [prompt])[0]


def run(
    model: LoadedModel, prompts: Sequence[PreparedPrompt], requests: Sequence[KVRequest]
) -> tuple[list[list[int]], list[torch.Tensor]]:
    """Greedy tokens and the logits of every step, all requests in one batch."""
    cache = ragged(model)
    runner = ModelRunner(model, cache)
    slots, logits = [], []
    for prompt, request in zip(prompts, requests, strict=True):
        plan = plan_of(model, request, prompt)
        slot, first = start(runner, prompt, plan)
        logits.append([first])
        assert cache.tokens(slot) == plan.kept_tokens
        slots.append(slot)
    for step in range(NEW_TOKENS - 1):
        positions = [prompt.next_position + step for prompt in prompts]
        rows = runner.decode(slots, [int(row[-1].argmax()) for row in logits], positions)
        for row, new in zip(logits, rows.clone(), strict=True):
            row.append(new)
    held = sum(cache.tokens(slot) for slot in slots) * model.cache_shape.token_bytes
    assert held <= cache.pool.held_bytes <= cache.pool.capacity_bytes
    for slot in slots:
        cache.release(slot)
    assert cache.pool.held_bytes == 0
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
    plan = plan_of(model, KVRequest("full"), prompt)
    bystander, expected = start(runner, prompt, plan)
    held = cache.books.held_pages
    poisoned, _ = start(runner, prompt, plan)
    cache.pool.keys[held:], cache.pool.values[held:] = torch.nan, torch.nan
    cache.release(poisoned)
    slot, logits = start(runner, prompt, plan)
    assert torch.equal(logits, expected)
    logits = runner.decode([bystander, slot], [5, 5], [prompt.next_position] * 2)
    assert torch.isfinite(logits).all()
    torch.testing.assert_close(logits[0], logits[1])


def test_a_step_that_failed_leaves_no_token_behind(any_model: LoadedModel) -> None:
    """Others go on after it while the pages of one that has gone change hands."""
    prompts = [ask(any_model, "Q" * (1 + index)) for index in range(3)]
    request = KVRequest("snapkv", budget=24)
    expected, _ = run(any_model, prompts[1:], [request] * 2)
    runner = ModelRunner(any_model, ragged(any_model))
    cache = runner.cache
    slots, tokens = [], []
    for prompt in prompts:
        slot, logits = start(runner, prompt, plan_of(any_model, request, prompt))
        slots.append(slot)
        tokens.append([int(logits.argmax())])

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
    """What is held are the pages that the plan's tokens fill, and one more for each head's answer."""
    model = small_model("llava_next_llama")
    prompt, size = ask(model, width=64, height=64), 16
    for ratio in (1.0, 0.25):
        cache = ragged(model, page_tokens=size)
        plan = plan_of(model, KVRequest("sparsemm", ratio=ratio), prompt)
        slot, _ = start(ModelRunner(model, cache), prompt, plan)
        pages = int((-(-plan.tokens // size)).sum())
        assert cache.prompt_bytes(slot) == pages * cache.pool.page_bytes
        assert cache.pool.held_bytes == (pages + 12) * cache.pool.page_bytes


def test_forks_share_what_was_kept_of_the_prompt(any_model: LoadedModel) -> None:
    assert_forks_equal(any_model)


def test_forks_of_sliding_layers_have_windows_of_their_own(small_model: Callable[[str], LoadedModel]) -> None:
    assert_forks_equal(small_model("qwen2_vl_sliding"))


def assert_forks_equal(model: LoadedModel) -> None:
    prompt, request = ask(model), KVRequest("sparsemm", ratio=0.3)
    expected, _ = run(model, [prompt], [request])
    runner = ModelRunner(model, ragged(model))
    first, logits = start(runner, prompt, plan_of(model, request, prompt))
    held = runner.cache.books.held_pages
    second = runner.cache.fork(first)
    shared = runner.cache.books.part(first).used
    assert runner.cache.books.held_pages - held == held - shared
    rows = [[int(logits.argmax())] for _ in range(2)]
    for step in range(NEW_TOKENS - 1):
        slots = [first, second] if step < 3 else [second]
        if step == 3:
            runner.cache.release(first)
        positions = [prompt.next_position + step] * len(slots)
        logits = runner.decode(slots, [row[-1] for row in rows[-len(slots) :]], positions)
        for row, token in zip(rows[-len(slots) :], logits.argmax(-1).tolist(), strict=True):
            row.append(token)
    assert rows[1] == expected[0]
    runner.cache.release(second)
    assert runner.cache.pool.held_bytes == 0


@pytest.mark.parametrize("family", ["qwen2_vl", "llava_next_llama", "qwen2_vl_sliding"])
def test_an_answer_run_again_goes_on_as_it_did(family: str, small_model: Callable[[str], LoadedModel]) -> None:
    model = small_model(family)
    prompt, request = ask(model), KVRequest("sparsemm", ratio=0.3)
    tokens, logits = run(model, [prompt], [request])
    runner = ModelRunner(model, ragged(model))
    for again in (1, NEW_TOKENS - 2):
        slot, _ = start(runner, prompt, plan_of(model, request, prompt), again + 1)
        runner.extend(slot, tokens[0][:again], prompt.next_position)
        row = runner.decode([slot], [tokens[0][again]], [prompt.next_position + again])[0]
        torch.testing.assert_close(row, logits[0][again + 1], atol=1e-4, rtol=1e-4)
        runner.cache.release(slot)


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


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"num_beams": 2}, "beam search"),
        ({"do_sample": True, "num_return_sequences": 2}, "num_return_sequences"),
        ({"prompt_lookup_num_tokens": 3}, "prompt lookup"),
        ({"use_cache": False}, "use_cache=False"),
        ({"output_attentions": True, "return_dict_in_generate": True}, "output_attentions"),
    ],
)
def test_what_generate_cannot_have_is_refused_by_name(
    small_model: Callable[[str], LoadedModel], options: dict[str, Any], told: str
) -> None:
    model = small_model("llava_next_llama")
    held = with_cache(model.model, GenerateCache(model.model, KVRequest("full")))
    with pytest.raises(ValueError, match=told):
        model.model.generate(**ask(model).inputs, **held, max_new_tokens=4, eos_token_id=None, **options)


@pytest.mark.parametrize("pads", [1, 5])
def test_left_padding_is_refused(any_model: LoadedModel, pads: int) -> None:
    tokens = torch.tensor([[0] * pads + [5, 6, 7, 8, 9]])
    mask = (torch.arange(tokens.shape[1]) >= pads).long()[None]
    held = with_cache(any_model.model, GenerateCache(any_model.model, KVRequest("full")))
    with pytest.raises(ValueError, match="left padding"):
        any_model.model.generate(input_ids=tokens, attention_mask=mask, **held, max_new_tokens=4, eos_token_id=None)


def test_a_text_model_generates_with_the_cache() -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=100, num_hidden_layers=3, **sizes)).eval()
    prompt = torch.randint(5, 99, (1, 50))
    options: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    expected = model.generate(prompt, **options)
    use_headmap_attention(model)
    held = with_cache(model, GenerateCache(model, KVRequest("full")))
    assert torch.equal(model.generate(prompt, **held, **options), expected)
    cache = GenerateCache(model, KVRequest("snapkv", budget=20))
    model.generate(prompt, **with_cache(model, cache), **options)
    assert cache.kept_tokens == (20 + 7) * 6


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


def test_a_cache_used_in_inference_mode_can_be_used_outside_of_it(small_model: Callable[[str], LoadedModel]) -> None:
    model = small_model("qwen2_vl_sliding")
    prompt, request = ask(model), KVRequest("sparsemm", ratio=0.3)
    tokens, logits = run(model, [prompt], [request])
    runner = ModelRunner(model, ragged(model))
    slot, _ = start(runner, prompt, plan_of(model, request, prompt))
    runner.cache.release(start(runner, prompt, plan_of(model, request, prompt))[0])
    positions = torch.tensor([prompt.next_position])
    with torch.no_grad(), runner.cache.step([slot]) as step:
        text_model = model.family.text_model(model.model)
        output = text_model(
            input_ids=torch.tensor([tokens[0][:1]]),
            position_ids=model.family.decode_positions(positions),
            use_cache=True,
            **with_cache(text_model, step),
        )
    torch.testing.assert_close(model.model.lm_head(output.last_hidden_state[0, -1]), logits[0][1], atol=1e-4, rtol=1e-4)
