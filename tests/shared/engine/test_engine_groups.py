"""Several answers to one prompt: it is prefilled once where they run together, and each answers as it does alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from headmap.engine.engine import Engine
from headmap.engine.messages import EngineRequest
from headmap.errors import OutOfMemory
from headmap.families.loading import LoadedModel
from headmap.kvcache.methods import METHODS
from headmap.kvcache.plan import KVRequest
from headmap.settings import Settings
from tests.shared.engine.driving import Call, Faulty, assert_all_free, make, submit

FAMILIES = ("qwen2_vl", "gemma3")  # the second has layers with a sliding window


class Counting(Faulty):
    """Counts the calls of a runner's method."""

    def __init__(self, inner: Callable[..., object]) -> None:
        super().__init__(inner, lambda call: False, ValueError())  # type: ignore[arg-type]


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest, small_model: Callable[[str], LoadedModel]) -> LoadedModel:
    return replace(small_model(request.param), eos_token_ids=frozenset())


@pytest.fixture
def engine(model: LoadedModel) -> Iterator[Engine]:
    engine = Engine(model, Settings(kv_memory_bytes=80_000_000, max_running=16, max_waiting=64))
    engine.start()
    yield engine
    engine.stop(0)


def choices(first: EngineRequest, n: int) -> list[EngineRequest]:
    """As `ReadyRequest.choice` makes them."""
    sampling = [replace(first.sampling, seed=first.sampling.seed + number) for number in range(n)]
    return [
        replace(first, id=f"{first.id} {number}", sampling=one, group=first.id) for number, one in enumerate(sampling)
    ]


def together(engine: Engine, requests: list[EngineRequest]) -> tuple[list[Call], int]:
    """Submit them at one moment; their calls and how many prefills they took."""
    prefill = engine._runner.prefill
    counting = engine._runner.prefill = Counting(prefill)  # type: ignore[method-assign, assignment]
    with engine._roster.changed:  # its lock is reentrant; the engine looks once all are in the queue
        calls = [submit(engine, request) for request in requests]
    for call in calls:
        call.ended()
    engine._runner.prefill = prefill  # type: ignore[method-assign]
    return calls, counting.calls


@pytest.mark.parametrize("method", METHODS)
def test_each_choice_is_what_a_request_of_its_own_would_be(engine: Engine, model: LoadedModel, method: str) -> None:
    kv = KVRequest(method) if method == "full" else KVRequest(method, ratio=0.3)
    requests = choices(make(model, "a", kv, 320, do_sample=True, temperature=1.5, max_new_tokens=40), 4)
    alone = [submit(engine, replace(request, group=None)).result() for request in requests]
    calls, prefills = together(engine, requests)
    assert [call.result().token_ids for call in calls] == [one.token_ids for one in alone]
    assert [call.result().kept_tokens for call in calls] == [one.kept_tokens for one in alone]
    assert len({one.token_ids for one in alone}) > 1
    assert prefills == 1
    assert_all_free(engine)


def test_two_groups_do_not_mix(engine: Engine, model: LoadedModel) -> None:
    one, other = choices(make(model, "a", width=40), 3), choices(make(model, "b", width=200), 3)
    alone = [submit(engine, replace(request, group=None)).result().token_ids for request in (*one, *other)]
    calls, prefills = together(engine, [*one, *other])
    assert [call.result().token_ids for call in calls] == alone
    assert prefills == 2
    calls, _ = together(engine, [request for pair in zip(one, other, strict=True) for request in pair])
    assert [call.result().token_ids for call in (*calls[::2], *calls[1::2])] == alone


def test_those_that_do_not_fit_wait_and_are_prefilled_by_themselves(model: LoadedModel) -> None:
    requests = choices(make(model, "a", KVRequest("snapkv", ratio=0.3), do_sample=True), 5)
    probe = Engine(model, Settings(kv_memory_bytes=80_000_000))
    probe.start()
    try:
        seen: list[int] = []
        submit(probe, requests[0], lambda event: seen.append(probe.stats().kv_held_bytes)).result()
    finally:
        probe.stop(0)
    engine = Engine(model, Settings(kv_memory_bytes=2 * max(seen)))
    engine.start()
    try:
        alone = [submit(engine, replace(request, group=None)).result().token_ids for request in requests]
        calls, prefills = together(engine, requests)
        assert [call.result().token_ids for call in calls] == alone
        assert prefills == 3
    finally:
        engine.stop(0)


def test_one_that_fails_to_go_on_from_the_other_fails_alone(engine: Engine, model: LoadedModel) -> None:
    requests = choices(make(model, "a"), 3)
    alone = submit(engine, replace(requests[0], group=None)).result().token_ids
    fork = engine._cache.fork
    engine._cache.fork = Faulty(fork, lambda call: call == 1, MemoryError())  # type: ignore[method-assign, assignment]
    calls, _ = together(engine, requests)
    assert calls[0].result().token_ids == calls[2].result().token_ids == alone
    with pytest.raises(OutOfMemory):
        calls[1].result()
    assert_all_free(engine)
