"""Every family from prompt to answer and to scores, compared with transformers' own generation and attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, DynamicCache, PreTrainedModel

from headmap.engine.greedy import generate_greedy
from headmap.engine.prompt_logprobs import prompt_logprobs
from headmap.engine.runner import ModelRunner
from headmap.families.base import PreparedPrompt
from headmap.families.loading import LoadedModel
from headmap.head_scores import HeadScores
from headmap.kvcache.plan import KVRequest
from headmap.kvcache.transformers.attention import with_cache
from headmap.kvcache.transformers.generate import GenerateCache
from headmap.kvcache.transformers.prefill import Prompt
from headmap.scoring.pages import make_page
from headmap.scoring.profile import Profiler, transcription_prompt
from headmap.scoring.reading import read_pages
from tests.shared.families.seeing import ask, noise
from tests.shared.kvcache.transformers.test_cache import NEW_TOKENS, plan_of, ragged, run

pytestmark = pytest.mark.slow
KINDS = {"qwen2_vl": "mm_token_type_ids", "qwen2_5_vl": "mm_token_type_ids", "qwen3_vl": "mm_token_type_ids"}
KINDS["gemma3"] = "token_type_ids"


def pictures(count: int) -> list[Image.Image]:
    return [Image.fromarray(noise(72 - 8 * number, 56, number)) for number in range(count)]


def reference(loaded: LoadedModel, attention: str) -> PreTrainedModel:
    return AutoModelForImageTextToText.from_pretrained(loaded.info.folder, attn_implementation=attention).eval()


def reference_inputs(loaded: LoadedModel, prompt: PreparedPrompt) -> dict[str, Any]:
    """With the marks of picture tokens that some processors add."""
    kinds = KINDS.get(loaded.family.name)
    marks = {} if kinds is None else {kinds: (prompt.inputs["input_ids"] == 4).int()}
    return {**prompt.inputs, **marks}


@pytest.mark.parametrize("count", [1, 2], ids=["one", "several"])
def test_full_equals_transformers_own_generation(family_model: LoadedModel, count: int) -> None:
    prompt = ask(family_model, pictures(count))
    output = reference(family_model, "sdpa").generate(
        **reference_inputs(family_model, prompt), max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=None,
        output_logits=True, return_dict_in_generate=True,
    )  # fmt: skip
    tokens, logits = run(family_model, [prompt], [KVRequest("full")])
    torch.testing.assert_close(logits[0], torch.cat(output.logits), atol=1e-4, rtol=1e-4)
    assert tokens[0] == output.sequences[0, prompt.prompt_tokens :].tolist()
    _, whole = run(family_model, [prompt], [KVRequest("sparsemm", ratio=1.0)])
    assert torch.equal(whole[0], logits[0])


def test_a_prompts_log_probabilities_are_those_of_transformers(family_model: LoadedModel) -> None:
    prompt = ask(family_model, pictures(1))
    ids = prompt.inputs["input_ids"][0].tolist()
    with torch.no_grad():
        logits = reference(family_model, "sdpa")(**reference_inputs(family_model, prompt)).logits[0]
    theirs = logits.float().log_softmax(-1)
    runner = ModelRunner(family_model, ragged(family_model))
    plan = plan_of(family_model, KVRequest("snapkv", budget=8), prompt)
    hidden: list[torch.Tensor] = []
    runner.prefill(
        [Prompt(runner.cache.admit(plan), plan, prompt.spans)],
        [prompt],
        on_hidden=lambda _, states: hidden.append(states),
    )
    image = family_model.family.image_token_id(family_model.model.config)
    with torch.no_grad():
        told = prompt_logprobs(family_model.model.lm_head, hidden[0], ids, 3, image)
    for place, token in enumerate(told):
        assert token.id == ids[place]
        if place == 0 or token.id == image:
            assert (token.logprob, token.top) == (None, ())
        else:
            assert token.logprob == pytest.approx(float(theirs[place - 1, token.id]), abs=1e-4)
            values = theirs[place - 1].topk(3).values.tolist()
            assert [value for _, value in token.top] == pytest.approx(values, abs=1e-4)


def test_batched_equals_alone(family_model: LoadedModel) -> None:
    requests = [
        KVRequest("sparsemm", ratio=0.3),
        KVRequest("full"),
        KVRequest("adakv", budget=12),
        KVRequest("snapkv", budget=5),
    ]
    prompts = [ask(family_model, pictures(1 + number % 2), "Q" * (1 + number)) for number in range(len(requests))]
    together, logits = run(family_model, prompts, requests)
    for number, (prompt, request) in enumerate(zip(prompts, requests, strict=True)):
        alone, alone_logits = run(family_model, [prompt], [request])
        assert together[number] == alone[0], request
        torch.testing.assert_close(logits[number], alone_logits[0], atol=1e-4, rtol=1e-4)
    if family_model.cache_shape.budgeted_layers:  # a cache that kept everything would pass the above
        _, full = run(family_model, [prompts[3]], [KVRequest("full")])
        assert (full[0][1:] - logits[3][1:]).abs().max() > 1e-3


def test_a_prefill_stops_by_before_every_layer_of_pictures_and_text(family_model: LoadedModel) -> None:
    """Between them other sequences get their tokens, so none may be far from the next."""
    prompt, text = ask(family_model, pictures(1)), family_model.info.num_layers
    runner, plan = ModelRunner(family_model, ragged(family_model)), plan_of(family_model, KVRequest("full"), prompt)
    calls: list[None] = []

    def prefill(on_layer: Callable[[], None] | None = None) -> None:
        runner.prefill([Prompt(runner.cache.admit(plan), plan, prompt.spans)], [prompt], on_layer)

    prefill(lambda: calls.append(None))
    vision = family_model.model.config.vision_config
    layers = getattr(vision, "depth", None) or vision.num_hidden_layers
    assert len(calls) >= text + layers
    before = len(calls)
    prefill()
    assert len(calls) == before


def test_transformers_generate_takes_our_cache(family_model: LoadedModel) -> None:
    prompt, request = ask(family_model, pictures(1)), KVRequest("snapkv", ratio=0.3)
    cache = GenerateCache(family_model.model, request, spans=prompt.spans)
    output = family_model.model.generate(
        **reference_inputs(family_model, prompt), **with_cache(family_model.model, cache),
        max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=None,
    )  # fmt: skip
    assert output[0, prompt.prompt_tokens :].tolist() == run(family_model, [prompt], [request])[0][0]


def test_sliding_layers_hold_their_window_and_no_more(family_model: LoadedModel) -> None:
    shape = family_model.cache_shape
    if shape.window is None:
        pytest.skip("no layer slides")
    prompt = ask(family_model, pictures(2))
    assert prompt.prompt_tokens > shape.window
    cache = GenerateCache(family_model.model, KVRequest("snapkv", ratio=0.25), spans=prompt.spans)
    steps = 3
    family_model.model.generate(
        **reference_inputs(family_model, prompt), **with_cache(family_model.model, cache), max_new_tokens=steps,
        eos_token_id=None,
    )  # fmt: skip
    sliding = len(shape.sliding_layers) * shape.window
    others = len(shape.budgeted_layers) * (prompt.prompt_tokens // 4 + steps - 1)
    assert cache.kept_tokens == (sliding + others) * shape.num_kv_heads


def slow_winners(loaded: LoadedModel, prompt: PreparedPrompt, answer: list[int]) -> np.ndarray:
    """(layers, heads, tokens) by the plain way: eager attention, a token at a time, every row in full."""
    model = reference(loaded, "eager")
    inputs = reference_inputs(loaded, prompt)
    inputs.pop("mm_token_type_ids", None)
    rows = []
    held = with_cache(model, DynamicCache(config=model.config.get_text_config()))
    kept = {"output_attentions": True, "use_cache": True, **held}
    with torch.no_grad():
        output = model.model(**inputs, position_ids=prompt.position_ids, **kept)
        for step, token in enumerate(answer):
            # a sliding layer's keys are its last ones
            seen = prompt.prompt_tokens + step
            rows.append([(seen - a.shape[-1] + a[0, :, -1].argmax(-1)).tolist() for a in output.attentions])
            output = loaded.family.text_model(model)(
                input_ids=torch.tensor([[token]]),
                position_ids=loaded.family.decode_positions(torch.tensor([prompt.next_position + step])),
                **kept,
            )
    return np.array(rows).transpose(1, 2, 0)


def test_reading_equals_step_by_step_eager_attention(family_model: LoadedModel) -> None:
    prompt = transcription_prompt(family_model, make_page(1, 0))
    (answer,) = generate_greedy(family_model, [prompt], max_new_tokens=9)
    winners = slow_winners(family_model, prompt, answer)
    guess = [9 if token == 4 else token for token in answer]  # a guess holds no picture token
    for expected in ([], guess[:5], [*guess[:3], 9, *guess[4:]]):
        (ours,) = read_pages(family_model, [prompt], [expected], max_new_tokens=9)
        assert ours.answer == answer
        assert (ours.winners == winners).all()


def test_a_profiler_scores_pages_of_it(family_model: LoadedModel) -> None:
    info = family_model.info
    profiler = Profiler(family_model, batch=2)
    pages = [make_page(3, index) for index in range(2)]
    total, _ = profiler.score(pages, rule="paper", max_new_tokens=8, on_page=int)
    assert total.pages == 2
    assert total.tokens_seen > 0
    sums = total.sums.sum(0)
    assert sums.shape == (info.num_layers, info.num_heads)
    prompt = ask(family_model, pictures(1))
    scores = HeadScores(sums + 1e-3, info.num_kv_heads)
    answer = generate_greedy(
        family_model, [prompt], max_new_tokens=4, kv=KVRequest("sparsemm", ratio=0.5), scores=scores
    )
    assert 1 <= len(answer[0]) <= 4


def test_a_further_turn_takes_its_own_pictures_along(family_model: LoadedModel) -> None:
    """The second picture's features, by themselves and of both: the same, so `rest` cuts tensors where pictures end."""
    prompt = ask(family_model, pictures(3))
    rest = family_model.rest(prompt, prompt.image_starts[1])
    assert rest.image_starts[0] == 0
    assert rest.images == prompt.images[1:]
    assert [end - start for start, end in rest.spans] == [end - start for start, end in prompt.spans[1:]]
    whole, left = (
        family_model.model.model.get_image_features(
            **{key: value for key, value in one.inputs.items() if key != "input_ids"}
        ).pooler_output
        for one in (prompt, rest)
    )
    whole, left = (torch.cat([part.reshape(-1, part.shape[-1]) for part in parts]) for parts in (whole, left))
    torch.testing.assert_close(left, whole[-len(left) :], atol=1e-5, rtol=1e-5)
    assert len(left) == (rest.inputs["input_ids"] == 4).sum()
