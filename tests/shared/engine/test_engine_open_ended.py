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
from headmap.settings import Settings
from tests.shared.engine.driving import assert_all_free, at_once, make, submit

MEMORY = 130_000
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


@pytest.mark.parametrize("kv", KVS, ids=lambda kv: kv.method)
def test_alone_it_ends_where_memory_does_and_keeps_its_text(model: LoadedModel, kv: KVRequest) -> None:
    request = to_the_end(model, make(model, "open", kv))
    with engine_of(model, MEMORY) as engine:
        with pytest.raises(RequestTooLarge):
            submit(engine, replace(request, open_ended=False))
        call = submit(engine, request)
        done = call.result()
        assert_all_free(engine)
        paging, pages = engine._cache.paging, engine._cache.books.free.count
        assert engine.stats().preempted_total == 0
    assert done.finish_reason == "length"
    new_tokens = len(done.token_ids)
    if kv.method != "adakv":  # how it shares out a layer's pages is known only after the prompt
        spare = pages - done.kv_bytes // paging.page_bytes
        ring = bool(paging.shape.sliding_layers)
        assert new_tokens - 1 == spare // paging.tail(1) * paging.page_tokens or ring
    with engine_of(model, 20 * MEMORY) as engine:
        longer = with_length(request, new_tokens + 20)
        assert submit(engine, longer).result().token_ids[:new_tokens] == done.token_ids


def with_length(request: EngineRequest, new_tokens: int) -> EngineRequest:
    return replace(request, sampling=replace(request.sampling, max_new_tokens=new_tokens), open_ended=False)


def test_among_others_it_may_wait_again_but_everyone_ends_with_a_text_of_its_own(model: LoadedModel) -> None:
    opens = [to_the_end(model, make(model, f"open {n}", kv, 48 + 8 * n)) for n, kv in enumerate(KVS)]
    bounded = [make(model, f"bounded {n}", kv, 40, max_new_tokens=30) for n, kv in enumerate(KVS)]
    requests = [one for pair in zip(opens, bounded, strict=True) for one in pair]
    with engine_of(model, MEMORY) as engine:
        alone = [len(submit(engine, replace(one, id=f"{one.id} alone")).result().token_ids) for one in opens]
        calls = at_once(engine, requests)
        results = {one.id: call.result() for one, call in zip(requests, calls, strict=True)}
        assert engine.stats().preempted_total > 0
        assert_all_free(engine)
    assert [len(results[one.id].token_ids) for one in opens] == alone
    assert [len(results[one.id].token_ids) for one in bounded] == [30] * 3
    with engine_of(model, 20 * MEMORY) as engine:
        for one in requests:
            told = results[one.id]
            expected = submit(engine, with_length(one, len(told.token_ids))).result()
            assert told.token_ids == expected.token_ids
            assert told.generated_text == expected.generated_text
            assert told.finish_reason == "length"


def test_a_prompt_that_does_not_fit_is_refused_however_open_its_end(model: LoadedModel) -> None:
    request = to_the_end(model, make(model, "open", width=640))
    with engine_of(model, 30_000) as engine, pytest.raises(RequestTooLarge):
        submit(engine, request)


def test_a_long_answer_that_may_come_takes_nothing_before_it_comes(model: LoadedModel) -> None:
    one = make(model, "one", max_new_tokens=1)
    held: list[int] = []
    with engine_of(model, 20 * MEMORY) as engine:

        def look(event: object) -> None:
            held.append(engine.stats().kv_held_bytes)

        def look_once(event: object) -> None:
            look(event)
            engine.cancel("open")

        submit(engine, one, look).result()
        submit(engine, replace(to_the_end(model, one), id="open"), look_once).ended()
    assert held[0] == held[2] > 0  # at each one's first token
