"""What a watched head is told to keep is what lies in the cache."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from headmap.engine.runner import ModelRunner
from headmap.families.base import PreparedPrompt
from headmap.families.loading import LoadedModel
from headmap.kvcache.plan import KVRequest
from headmap.kvcache.transformers.cache import RaggedCache
from headmap.kvcache.transformers.head_watch import HeadWatch
from headmap.kvcache.transformers.prefill import Prompt
from tests.shared.kvcache.transformers.test_cache import picture, plan_of, ragged


def two_pictures(model: LoadedModel) -> PreparedPrompt:
    image = {"type": "image"}
    content = [image, {"type": "text", "text": "And this?"}, image, {"type": "text", "text": "?"}]
    return model.prepare([{"role": "user", "content": content}], [picture(72, 56), picture(48, 64, seed=1)])


def prefilled(
    model: LoadedModel, prompt: PreparedPrompt, request: KVRequest, watch: HeadWatch | None = None
) -> RaggedCache:
    cache = ragged(model)
    plan = plan_of(model, request, prompt)
    slot = cache.admit(plan)
    ModelRunner(model, cache).prefill([Prompt(slot, plan, prompt.spans, watch=watch)], [prompt])
    return cache


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_vl_sliding", "gemma3", "llava_next_mistral"])
@pytest.mark.parametrize("method", ["full", "sparsemm", "adakv"])
def test_a_watched_heads_positions_are_those_of_its_keys(
    small_model: Callable[[str], LoadedModel], name: str, method: str
) -> None:
    model = small_model(name)
    prompt, shape = two_pictures(model), model.cache_shape
    request = KVRequest(method, ratio=0.3)
    full, unwatched = prefilled(model, prompt, KVRequest("full")), prefilled(model, prompt, request)
    for layer_idx in range(shape.num_layers):
        for head in range(shape.num_kv_heads):
            watch = HeadWatch(layer_idx, head)
            kept_keys, _ = prefilled(model, prompt, request, watch).row(layer_idx, 0, head)
            all_keys, _ = full.row(layer_idx, 0, head)
            first = prompt.prompt_tokens - len(all_keys)  # a sliding layer holds its window and no more
            assert list(watch.positions) == sorted(set(watch.positions))
            torch.testing.assert_close(all_keys[torch.tensor(watch.positions) - first], kept_keys)
            assert torch.equal(kept_keys, unwatched.row(layer_idx, 0, head)[0])  # watching changes nothing
