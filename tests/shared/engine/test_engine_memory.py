"""The engine where memory runs out in the middle of a step: the youngest ends, the others answer as they do alone."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch

from headmap.engine.engine import Engine
from headmap.engine.failures import as_headmap_error
from headmap.errors import OutOfMemory
from headmap.families.loading import LoadedModel
from headmap.kvcache.plan import KVRequest
from headmap.settings import Settings
from tests.shared.engine.driving import assert_all_free, make, submit

ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 MiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to ..."),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 96 bytes."),
]


@pytest.fixture(scope="module", params=["qwen2_vl", "qwen2_vl_sliding"])
def model(request: pytest.FixtureRequest, small_model: Callable[[str], LoadedModel]) -> LoadedModel:
    return replace(small_model(request.param), eos_token_ids=frozenset())


@pytest.fixture
def engine(model: LoadedModel) -> Iterator[Engine]:
    engine = Engine(model, Settings(kv_memory_bytes=8_000_000, max_running=16, max_decode_gap_ms=0))
    engine.start()
    yield engine
    engine.stop(0)


@contextmanager
def fails_in_its_last_layer(model: LoadedModel, when: Callable[[int, int], bool], error: Exception) -> Iterator[None]:
    """Raises where `when(sequences, tokens)` of a forward is true; by then every layer but the last has run whole."""

    def before(module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        if when(*inputs[0].shape[:2]):
            raise error

    hook = model.family.text_model(model.model).layers[-1].mlp.register_forward_pre_hook(before)
    try:
        yield
    finally:
        hook.remove()


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: str(error)[:8])
def test_the_youngest_of_a_step_ends_and_the_others_go_on(engine: Engine, model: LoadedModel, error: Exception) -> None:
    kvs = [KVRequest("sparsemm", ratio=0.3), KVRequest("full"), KVRequest("snapkv", budget=20)]
    requests = [make(model, str(n), kv, 40 + 8 * n, max_new_tokens=40) for n, kv in enumerate(kvs)]
    alone = [submit(engine, request).result().token_ids for request in requests]
    ran = [0, 0]

    def three_at_once(sequences: int, tokens: int) -> bool:
        ran[sequences == 3] += tokens == 1
        return sequences == 3 and ran[1] > 4  # steps go well before

    with fails_in_its_last_layer(model, three_at_once, error):
        calls = [submit(engine, replace(request, id=f"again {request.id}")) for request in requests]
        assert [call.result().token_ids for call in calls[:2]] == alone[:2]
        with pytest.raises(OutOfMemory, match="the model ran out of memory"):
            calls[2].result()
    assert 4 < len(calls[2].events) < 40
    assert submit(engine, requests[2]).result().token_ids == alone[2]
    assert_all_free(engine)


def test_where_there_is_no_memory_for_one_the_engine_lives(engine: Engine, model: LoadedModel) -> None:
    with fails_in_its_last_layer(model, lambda sequences, tokens: tokens == 1, ERRORS[0]):
        calls = [submit(engine, make(model, name)) for name in "abc"]
        for call in calls:
            with pytest.raises(OutOfMemory):
                call.result()
    assert submit(engine, make(model, "d")).result().finish_reason == "length"


def test_a_step_within_a_prefill_ends_that_prefill(engine: Engine, model: LoadedModel) -> None:
    """What is being prefilled is the youngest, and holds the most."""
    first, second = make(model, "first", max_new_tokens=60), make(model, "second", width=160)
    alone = submit(engine, first).result().token_ids
    prefilling = []

    def in_a_prefill(sequences: int, tokens: int) -> bool:
        prefilling.append([one.id for one in engine._roster.prefilling] == ["second"])
        return tokens == 1 and prefilling[-1]

    with fails_in_its_last_layer(model, in_a_prefill, ERRORS[0]):
        going = submit(engine, replace(first, id="again"))
        while len(going.events) < 3:
            pass
        with pytest.raises(OutOfMemory):
            submit(engine, second).result()
        assert going.result().token_ids == alone
    assert any(prefilling)
    assert submit(engine, second).result().finish_reason == "length"


def test_an_error_lets_go_of_the_tensors_of_what_failed() -> None:
    held: list[weakref.ref[torch.Tensor]] = []

    def forward() -> None:
        activations = torch.zeros(3)
        held.append(weakref.ref(activations))
        raise torch.OutOfMemoryError("no room")

    def step() -> None:
        try:
            forward()
        except torch.OutOfMemoryError as error:
            raise OutOfMemory("the model ran out of memory") from error

    for run in (forward, step):
        try:
            run()
        except Exception as error:
            told = as_headmap_error(error)
        assert isinstance(told, OutOfMemory)
        assert held[-1]() is None
        assert told.__cause__ is not None
