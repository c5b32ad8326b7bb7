"""Failures end what they must and no more, and everybody hears of it."""

from __future__ import annotations

import sys
import threading
from dataclasses import replace
from typing import Any

import pytest
import torch

from headmap.engine.engine import Engine
from headmap.engine.messages import Event, Failed, Token
from headmap.engine.sequence import Sequence
from headmap.errors import (
    DeviceFailed,
    HeadmapError,
    OutOfMemory,
    ShuttingDown,
    Unavailable,
)
from headmap.families.loading import LoadedModel
from headmap.settings import Settings
from tests.shared.engine.driving import SECONDS, Faulty, assert_all_free, at_once, make, submit


def test_out_of_memory_in_prefill_fails_that_request_alone(
    engine: Engine, model: LoadedModel, caplog: pytest.LogCaptureFixture
) -> None:
    expected = submit(engine, make(model, "expected", max_new_tokens=20)).result().token_ids
    engine._runner.prefill = Faulty(engine._runner.prefill, lambda call: call == 1, torch.OutOfMemoryError("no room"))
    requests = [
        replace(make(model, name, max_new_tokens=20), request_id=f"http {name}", trace_ids={"trace_id": name})
        for name in "abc"
    ]
    with pytest.raises(OutOfMemory, match="the model ran out of memory"):
        submit(engine, requests[1]).result()
    assert_all_free(engine)
    assert submit(engine, requests[0]).result().token_ids == expected
    told = [vars(entry) for entry in caplog.records if "code" in vars(entry)]
    assert [(one["request_id"], one["trace_id"], one["code"]) for one in told] == [("http b", "b", "out_of_memory")]


def test_out_of_memory_within_a_prompts_layers_gives_back_what_they_held(engine: Engine, model: LoadedModel) -> None:
    expected = submit(engine, make(model, "expected", max_new_tokens=20)).result().token_ids
    inner = engine._cache.books.place
    second_layer = 2
    engine._cache.books.place = Faulty(inner, lambda call: call == second_layer, torch.OutOfMemoryError("no room"))
    with pytest.raises(OutOfMemory, match="the model ran out of memory"):
        submit(engine, make(model, "a")).result()
    assert_all_free(engine)
    assert submit(engine, make(model, "b", max_new_tokens=20)).result().token_ids == expected


BROKEN = RuntimeError("CUDA error: an illegal memory access was encountered")


@pytest.mark.parametrize("where", ["prefill", "decode"])
def test_a_broken_device_ends_the_engine_and_everybody_hears_it(model: LoadedModel, where: str) -> None:
    engine = Engine(model, Settings(kv_memory_bytes=8_000_000, max_running=1))
    setattr(engine._runner, where, Faulty(getattr(engine._runner, where), lambda call: call == 1, BROKEN))
    engine.start()
    calls = at_once(engine, [make(model, name) for name in "abc"])
    for call in calls:
        with pytest.raises(DeviceFailed):
            call.result()
    engine._thread.join(SECONDS)
    assert not engine.stats().alive
    with pytest.raises(Unavailable, match="the engine is not running: the device failed"):
        submit(engine, make(model, "d"))


def test_where_cleaning_up_fails_everybody_hears_it_first_and_the_engine_ends(model: LoadedModel) -> None:
    engine = Engine(model, Settings(kv_memory_bytes=8_000_000))

    def broken(slot: int) -> None:
        raise BROKEN

    engine._cache.release = broken
    engine._runner.decode = Faulty(engine._runner.decode, lambda call: call == 3, RuntimeError("one step fails"))
    engine.start()
    calls = at_once(engine, [make(model, name) for name in "abc"])
    for call in calls:
        assert isinstance(call.ended(), Failed)
    engine._thread.join(SECONDS)
    assert not engine.stats().alive


def test_a_failed_step_fails_its_sequences_and_the_engine_goes_on(engine: Engine, model: LoadedModel) -> None:
    expected = submit(engine, make(model, "expected")).result().token_ids
    engine._runner.decode = Faulty(engine._runner.decode, lambda call: call == 3, RuntimeError("secret inner words"))
    with pytest.raises(HeadmapError, match="the model failed on this request") as caught:
        submit(engine, make(model, "a")).result()
    assert "secret" not in caught.value.detail
    assert submit(engine, make(model, "b")).result().token_ids == expected


def test_a_faulty_listener_does_not_harm_the_engine(engine: Engine, model: LoadedModel) -> None:
    def broken(event: Event) -> None:
        raise ValueError("listener")

    engine.submit(make(model, "a"), broken)
    assert submit(engine, make(model, "b")).result().finish_reason == "length"


def test_a_token_that_cannot_be_told_fails_its_request_alone_and_once(engine: Engine, model: LoadedModel) -> None:
    """Also where tokens are told while the next step runs, and that step fails."""
    engine._ends.telling.later = True
    say = engine._ends.telling._say

    def faulty(sequence: Sequence, *rest: Any) -> None:
        if sequence.id == "b" and len(sequence.tokens) == 3:
            raise RuntimeError("no text for it")
        say(sequence, *rest)

    engine._ends.telling._say = faulty
    expected = submit(engine, make(model, "expected")).result().token_ids
    calls = at_once(engine, [make(model, name) for name in "abc"])
    assert calls[0].result().token_ids == calls[2].result().token_ids == expected
    with pytest.raises(HeadmapError, match="the model failed on this request"):
        calls[1].result()
    inner = engine._runner.decode
    engine._runner.decode = Faulty(inner, lambda call: call == 3, RuntimeError("the step fails too"))
    calls = at_once(engine, [make(model, name) for name in "abc"])
    for call in calls:
        assert isinstance(call.ended(), Failed)
    assert_all_free(engine)
    assert [sum(not isinstance(event, Token) for event in call.events) for call in calls] == [1, 1, 1]


def test_stopping_does_not_wait_for_a_prefill(model: LoadedModel) -> None:
    engine = Engine(model, Settings(kv_memory_bytes=8_000_000))
    begun, hold, layers = threading.Event(), threading.Event(), 0

    def between_layers() -> None:
        nonlocal layers
        layers += 1
        begun.set()
        hold.wait(SECONDS)
        inner()

    inner, engine._prompts._between_layers = engine._prompts._between_layers, between_layers
    engine.start()
    call = submit(engine, make(model, "a"))
    begun.wait(SECONDS)
    ending = threading.Thread(target=engine.stop, args=(0,))
    ending.start()
    while engine._roster.stop_at is None:
        pass
    hold.set()
    with pytest.raises(ShuttingDown):
        call.result()
    ending.join(SECONDS)
    assert layers == 1


def test_stopping_lets_running_requests_finish_and_refuses_others(model: LoadedModel) -> None:
    engine = Engine(model, Settings(kv_memory_bytes=8_000_000))
    engine.start()
    call = submit(engine, make(model, "a", max_new_tokens=20))
    engine.stop(SECONDS)
    assert len(call.result().token_ids) == 20
    with pytest.raises(ShuttingDown):
        submit(engine, make(model, "b"))


def test_stopping_without_patience_fails_what_runs(model: LoadedModel) -> None:
    engine = Engine(model, Settings(kv_memory_bytes=8_000_000, max_running=1))
    engine.start()
    calls = [submit(engine, make(model, name, max_new_tokens=1500)) for name in "ab"]
    engine.stop(0)
    for call in calls:
        with pytest.raises(ShuttingDown):
            call.result()
    assert not engine.stats().alive


def test_a_backend_that_cannot_be_made_is_named(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.delitem(sys.modules, "headmap.kvcache.backends.native", raising=False)
    with pytest.raises(Unavailable, match=r"HEADMAP_DECODE_BACKEND=native: native.cc cannot be compiled"):
        Engine(model, Settings(decode_backend="native"))
