"""Prompts that are prefilled together, and sequences that wait again: each answers as it does alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from headmap.engine.engine import Engine
from headmap.engine.messages import Event
from headmap.families.loading import LoadedModel
from headmap.kvcache.methods import METHODS
from headmap.kvcache.plan import KVRequest
from headmap.kvcache.planning import plan_cache
from headmap.kvcache.pool.paging import Paging
from headmap.settings import Settings
from tests.shared.engine.driving import assert_all_free, at_once, make, prefill_fails, submit


def test_prompts_that_wait_are_prefilled_together_and_answer_as_alone(engine: Engine, model: LoadedModel) -> None:
    kvs = [KVRequest(method, ratio=0.3) for method in METHODS]
    requests = [make(model, str(index), kv, 40 + 24 * index) for index, kv in enumerate(kvs)]
    alone = [submit(engine, request).result() for request in requests]
    packs: list[int] = []
    with prefill_fails(engine, lambda prompts: bool(packs.append(prompts)), ValueError()):
        calls = at_once(engine, [replace(request, id=f"again {request.id}") for request in requests])
        for one, call in zip(alone, calls, strict=True):
            assert call.result().token_ids == one.token_ids
            assert call.result().kept_tokens == one.kept_tokens
    assert packs == [len(requests)]


def test_prompts_are_prefilled_together_up_to_a_bound(model: LoadedModel) -> None:
    engine = Engine(model, Settings(kv_memory_bytes=8_000_000, max_prefill_tokens=200))
    engine.start()
    requests = [make(model, str(index), width=64) for index in range(5)]
    packs: list[int] = []
    try:
        with prefill_fails(engine, lambda prompts: bool(packs.append(prompts)), ValueError()):
            for call in at_once(engine, requests):
                assert call.result().finish_reason == "length"
    finally:
        engine.stop(0)
    assert max(packs) == 200 // requests[0].prompt.prompt_tokens > 1
    assert sum(packs) == 5


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no room"), RuntimeError("a bad picture")])
def test_where_a_prefill_of_several_fails_each_is_tried_alone(
    engine: Engine, model: LoadedModel, error: Exception
) -> None:
    expected = submit(engine, make(model, "expected", max_new_tokens=20)).result().token_ids
    with prefill_fails(engine, lambda prompts: prompts > 1, error):
        calls = at_once(engine, [make(model, name, max_new_tokens=20) for name in "abc"])
        assert [call.result().token_ids for call in calls] == [expected] * 3
    assert_all_free(engine)


def preempting(model: LoadedModel, **settings: object) -> Engine:
    """An engine with memory for the prompts of a few requests and the answer of one of them."""
    request = make(model, "probe", KVRequest("sparsemm", ratio=0.3), max_new_tokens=100)
    plan = plan_cache(request.kv, model.cache_shape, request.prompt.prompt_tokens, request.scores)
    paging = Paging(model.cache_shape)
    pages = paging.sequence(plan, 100) + 3 * paging.sequence(plan, 33)
    return Engine(model, Settings(kv_memory_bytes=pages * paging.page_bytes, max_running=16, **settings))


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_vl_sliding"])
@pytest.mark.parametrize("sampled", [False, True])
def test_who_is_preempted_answers_as_alone(small_model: Callable[[str], LoadedModel], name: str, sampled: bool) -> None:
    model = replace(small_model(name), eos_token_ids=frozenset())
    engine = preempting(model, max_decode_gap_ms=0)
    engine.start()
    try:
        requests = [
            make(
                model, str(n), KVRequest("sparsemm", ratio=0.3), 64 + 8 * (n % 3), max_new_tokens=100, seed=n,
                do_sample=sampled, repetition_penalty=1.2 if n % 2 else 1.0,
            )
            for n in range(5)
        ]  # fmt: skip
        alone = [submit(engine, request).result().token_ids for request in requests]
        calls = at_once(engine, [replace(request, id=f"again {request.id}") for request in requests])
        assert [call.result().token_ids for call in calls] == alone
        assert engine.stats().preempted_total > 0
        assert_all_free(engine)
    finally:
        engine.stop(0)


def test_more_are_admitted_than_could_all_come_to_their_end(model: LoadedModel) -> None:
    engine = preempting(model)
    engine.start()
    try:
        most = 0

        def look(event: Event) -> None:
            nonlocal most
            most = max(most, engine.stats().running)

        requests = [make(model, str(n), KVRequest("sparsemm", ratio=0.3), max_new_tokens=100) for n in range(4)]
        with engine._roster.changed:
            calls = [submit(engine, request, look) for request in requests]
        assert len({call.result().token_ids for call in calls}) == 1
        assert most > 1
    finally:
        engine.stop(0)
