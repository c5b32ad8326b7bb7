"""Requests that say nothing of their length: they start where their prompt fits, and end with memory at the latest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from headmap.engine.engine import Engine
from headmap.engine.messages import EngineRequest
from headmap.errors import RequestTooLarge
from headmap.families.loading import LoadedModel
from headmap.kvcache.plan import KVRequest
from headmap.kvcache.planning import plan_cache
from headmap.kvcache.pool.paging import Paging
from headmap.settings import Settings
from tests.shared.engine.driving import assert_all_free, at_once, make, submit

PLENTY = 8_000_000
KVS = [KVRequest("full"), KVRequest("sparsemm", ratio=0.4), KVRequest("adakv", ratio=0.3)]


@pytest.fixture(scope="module", params=["qwen2_vl", "qwen2_vl_sliding"])
def model(request: pytest.FixtureRequest, small_model: Callable[[str], LoadedModel]) -> LoadedModel:
    return replace(small_model(request.param), eos_token_ids=frozenset())


@contextmanager
def engine_of(model: LoadedModel, memory: int) -> Iterator[Engine]:
    engine = Engine(model, Settings(kv_memory_bytes=memory, max_running=8, max_waiting=16))
    engine.start()
    try:
        yield engine
    finally:
        engine.stop(0)


def to_the_end(model: LoadedModel, request: EngineRequest) -> EngineRequest:
    """The request with all that the context has room for."""
    room = model.info.max_positions - request.prompt.prompt_tokens
    return replace(request, sampling=replace(request.sampling, max_new_tokens=room), open_ended=True)


def with_length(request: EngineRequest, new_tokens: int) -> EngineRequest:
    return replace(request, sampling=replace(request.sampling, max_new_tokens=new_tokens), open_ended=False)


def pages(model: LoadedModel, request: EngineRequest, new_tokens: int) -> int:
    plan = plan_cache(request.kv, model.cache_shape, request.prompt.prompt_tokens, request.scores)
    return Paging(model.cache_shape).sequence(plan, new_tokens)


def memory_for(model: LoadedModel, request: EngineRequest, new_tokens: int) -> int:
    return pages(model, request, new_tokens) * Paging(model.cache_shape).page_bytes


@pytest.mark.parametrize("kv", KVS, ids=lambda kv: kv.method)
def test_alone_it_ends_where_memory_does_and_keeps_its_text(model: LoadedModel, kv: KVRequest) -> None:
    request = to_the_end(model, make(model, "open", kv))
    with engine_of(model, memory_for(model, make(model, "full"), 32)) as engine:
        with pytest.raises(RequestTooLarge):
            submit(engine, replace(request, open_ended=False))
        done = submit(engine, request).result()
        assert_all_free(engine)
        assert engine.stats().preempted_total == 0
        all_pages = engine._cache.books.free.count
    new_tokens = len(done.token_ids)
    # The cache holds all but the last token.
    assert pages(model, request, new_tokens - 1) <= all_pages < pages(model, request, new_tokens)
    with engine_of(model, PLENTY) as engine:
        longer = submit(engine, with_length(request, new_tokens + 5)).result()
    assert longer.token_ids[:new_tokens] == done.token_ids
    assert longer.generated_text.startswith(done.generated_text)
    assert done.finish_reason == "length"


def test_among_others_it_may_wait_again_but_everyone_ends_with_a_text_of_its_own(model: LoadedModel) -> None:
    opens = [to_the_end(model, make(model, kv.method, kv)) for kv in (KVS[0], KVS[2])]
    bounded = make(model, "bounded", KVS[1], max_new_tokens=12)
    both = memory_for(model, opens[0], 32) + memory_for(model, opens[1], 16)
    with engine_of(model, both) as engine:
        calls = at_once(engine, [*opens, bounded])
        results = [call.result() for call in calls]
        assert engine.stats().preempted_total > 0
        assert_all_free(engine)
        all_pages = engine._cache.books.free.count
    assert len(results[2].token_ids) == 12
    for one, told in zip(opens, results, strict=False):  # as each ends alone
        new_tokens = len(told.token_ids)
        assert pages(model, one, new_tokens - 1) <= all_pages < pages(model, one, new_tokens)
    with engine_of(model, PLENTY) as engine:
        for one, told in zip([*opens, bounded], results, strict=True):
            longer = submit(engine, with_length(one, len(told.token_ids))).result()
            assert (told.token_ids, told.generated_text) == (longer.token_ids, longer.generated_text)
            assert told.finish_reason == "length"


def test_a_prompt_that_does_not_fit_is_refused_however_open_its_end(model: LoadedModel) -> None:
    request = to_the_end(model, make(model, "open", width=640))
    with engine_of(model, 30_000) as engine, pytest.raises(RequestTooLarge):
        submit(engine, request)


def test_a_long_answer_that_may_come_takes_nothing_before_it_comes(model: LoadedModel) -> None:
    one = make(model, "one", max_new_tokens=1)
    held: list[int] = []
    with engine_of(model, PLENTY) as engine:

        def look(event: object) -> None:
            held.append(engine.stats().kv_held_bytes)
            if len(held) > 2:
                engine.cancel("open")

        submit(engine, one, look).result()
        submit(engine, replace(to_the_end(model, one), id="open"), look).ended()
    assert held[0] == held[2] > 0  # at each one's first token
