"""The engine with small real models: one terminal event each, whatever happens to the others."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from headmap.engine.engine import Engine
from headmap.engine.messages import Cancelled, EngineRequest, Event, Failed, Finished, OnEvent, Token
from headmap.engine.sampling.params import SamplingParams
from headmap.errors import (
    HeadmapError,
    OutOfMemory,
    PromptTooLong,
    QueueFull,
    RequestTooLarge,
    ShuttingDown,
    Unavailable,
    UnknownMethod,
)
from headmap.families.base import PreparedPrompt
from headmap.families.loading import LoadedModel
from headmap.head_scores import HeadScores
from headmap.kvcache.methods import METHODS
from headmap.kvcache.plan import KVRequest
from headmap.settings import Settings

SECONDS = 60


class Call:
    """A request's events as they come."""

    def __init__(self, on_event: Callable[[Event], None] | None = None) -> None:
        self.events: list[Event] = []
        self._extra = on_event
        self._ended = threading.Event()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if self._extra is not None:
            self._extra(event)
        if not isinstance(event, Token):
            self._ended.set()

    def ended(self) -> Event:
        if not self._ended.wait(SECONDS):
            raise TimeoutError("no terminal event")
        return self.events[-1]

    def result(self) -> Finished:
        last = self.ended()
        if isinstance(last, Failed):
            raise last.error
        assert isinstance(last, Finished)
        assert "".join(e.text for e in self.events if isinstance(e, Token)) + last.tail == last.generated_text
        assert tuple(e.id for e in self.events if isinstance(e, Token)) == last.token_ids
        return last


@pytest.fixture(scope="module")
def model(small_model: Callable[[str], LoadedModel]) -> LoadedModel:
    # no end token: random weights would end a request when they please
    return replace(small_model("qwen2_vl"), eos_token_ids=frozenset())


@pytest.fixture
def engine(model: LoadedModel) -> Iterator[Engine]:
    engine = Engine(model, Settings(kv_memory_bytes=8_000_000, max_running=16, max_waiting=16))
    engine.start()
    yield engine
    engine.stop(0)


def make(
    model: LoadedModel, name: str, kv: KVRequest | None = None, width: int = 64, **sampling: object
) -> EngineRequest:
    pixels = np.random.default_rng(width).integers(0, 255, (48, width, 3), dtype=np.uint8)
    content = [{"type": "image"}, {"type": "text", "text": "What is it?"}]
    prompt = model.prepare([{"role": "user", "content": content}], [Image.fromarray(pixels)])
    layers, heads = model.info.num_layers, model.info.num_heads
    scores = HeadScores(np.arange(layers * heads, dtype=float).reshape(layers, heads) ** 3, model.info.num_kv_heads)
    params = SamplingParams(**{"max_new_tokens": 8, "seed": 7, **sampling})
    return EngineRequest(name, prompt, kv or KVRequest("full"), params, scores)


def submit(engine: Engine, request: EngineRequest, on_event: OnEvent | None = None) -> Call:
    call = Call(on_event)
    engine.submit(request, call)
    return call


def test_mixed_requests_together_answer_as_each_does_alone(engine: Engine, model: LoadedModel) -> None:
    kvs = [KVRequest(method, ratio=0.3) for method in METHODS] + [KVRequest("snapkv", budget=1), KVRequest("full")]
    requests = [
        make(model, str(index), kv, 40 + 8 * index, do_sample=index % 2 == 1, temperature=1.5)
        for index, kv in enumerate(kvs)
    ]
    alone = [submit(engine, request).result() for request in requests]
    together = [submit(engine, replace(request, id=f"again {request.id}")) for request in requests]
    for one, call, kv in zip(alone, together, kvs, strict=True):
        assert call.result().token_ids == one.token_ids, kv
        assert call.result().kept_tokens == one.kept_tokens
    assert engine.stats().running == engine.stats().waiting == engine.stats().kv_reserved_bytes == 0


def test_what_is_told_of_the_cache_is_what_was_kept(engine: Engine, model: LoadedModel) -> None:
    request = make(model, "a", KVRequest("sparsemm", ratio=0.25))
    done = submit(engine, request).result()
    n, shape = request.prompt.prompt_tokens, model.cache_shape
    assert done.budget == n // 4
    assert done.kept_tokens == n // 4 * 6
    assert done.full_tokens == n * 6
    assert done.kv_bytes == done.kept_tokens * shape.token_bytes
    assert done.kv_full_bytes == done.full_tokens * shape.token_bytes


def test_length_stop_and_end_token(engine: Engine, model: LoadedModel) -> None:
    done = submit(engine, make(model, "a")).result()
    assert (done.finish_reason, len(done.token_ids)) == ("length", 8)
    text = done.generated_text
    stopped = submit(engine, make(model, "b", stop=(text[3:5],))).result()
    assert stopped.finish_reason == "stop_sequence"
    assert stopped.generated_text == text[: text.find(text[3:5])]
    ending = Engine(replace(model, eos_token_ids=frozenset({done.token_ids[0]})), Settings(kv_memory_bytes=8_000_000))
    ending.start()
    try:
        ended = submit(ending, make(model, "c")).result()
        assert (ended.finish_reason, ended.generated_text, len(ended.token_ids)) == ("eos_token", "", 1)
        assert submit(ending, make(model, "d", ignore_eos=True)).result().token_ids == done.token_ids
    finally:
        ending.stop(0)


def test_no_new_tokens_at_all(engine: Engine, model: LoadedModel) -> None:
    done = submit(engine, make(model, "a", KVRequest("snapkv", budget=5), max_new_tokens=0)).result()
    assert (done.finish_reason, done.token_ids, done.kept_tokens) == ("length", (), 30)


@pytest.mark.parametrize("budget", [1, 2, 3, 31, 32, 33])
def test_budgets_around_the_window(engine: Engine, model: LoadedModel, budget: int) -> None:
    for method in METHODS:
        done = submit(engine, make(model, f"{method}", KVRequest(method, budget=budget))).result()
        assert len(done.token_ids) == 8
        assert done.kept_tokens == (done.full_tokens if method == "full" else budget * 6)


def text_prompt(model: LoadedModel, tokens: int) -> PreparedPrompt:
    return replace(
        make(model, "a").prompt,
        inputs={"input_ids": torch.arange(9, 9 + tokens)[None]},
        position_ids=torch.arange(tokens).expand(3, 1, -1),
        next_position=tokens,
        images=(),
        image_starts=(),
    )


@pytest.mark.parametrize("tokens", [1, 2, 5, 31])
def test_a_prompt_shorter_than_the_window_keeps_all(engine: Engine, model: LoadedModel, tokens: int) -> None:
    prompt = text_prompt(model, tokens)
    full = submit(engine, replace(make(model, "full"), prompt=prompt)).result()
    for method in METHODS:
        for kv in (KVRequest(method, budget=64), KVRequest(method, budget=33, window=32)):
            done = submit(engine, replace(make(model, method, kv), prompt=prompt)).result()
            assert (done.token_ids, done.kept_tokens) == (full.token_ids, tokens * 6), kv


def test_a_prompt_of_one_token_keeps_it_at_any_budget(engine: Engine, model: LoadedModel) -> None:
    prompt = text_prompt(model, 1)
    for method in METHODS:
        for kv in (KVRequest(method, budget=1), KVRequest(method, ratio=0.01)):
            assert submit(engine, replace(make(model, method, kv), prompt=prompt)).result().kept_tokens == 6


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"kv": KVRequest("nothing", budget=3)}, UnknownMethod),
        ({"sampling": SamplingParams(max_new_tokens=5000)}, PromptTooLong),
    ],
)
def test_a_request_that_cannot_be_served_is_refused_at_once(
    engine: Engine, model: LoadedModel, change: dict[str, object], error: type[HeadmapError]
) -> None:
    with pytest.raises(error):
        submit(engine, replace(make(model, "a"), **change))
    assert engine.stats().waiting == 0


def test_a_request_that_can_never_fit_is_refused_and_a_smaller_budget_fits(model: LoadedModel) -> None:
    engine = Engine(model, Settings(kv_memory_bytes=60_000))
    engine.start()
    try:
        with pytest.raises(RequestTooLarge, match="bytes of KV memory, the server has"):
            submit(engine, make(model, "a", width=320))
        assert submit(engine, make(model, "b", KVRequest("snapkv", ratio=0.1), width=320)).result()
    finally:
        engine.stop(0)


def test_requests_wait_for_memory_and_all_are_served(model: LoadedModel) -> None:
    request = make(model, "probe")
    engine = Engine(model, Settings(kv_memory_bytes=130_000, max_waiting=32))
    engine.start()
    peaks = []
    try:
        look = lambda event: peaks.append(engine.stats().kv_reserved_bytes)  # noqa: E731
        calls = [submit(engine, replace(request, id=str(index)), look) for index in range(12)]
        results = [call.result() for call in calls]
    finally:
        engine.stop(0)
    assert len({result.token_ids for result in results}) == 1
    assert max(peaks) <= 130_000
    assert max(result.queue_ms for result in results) > min(result.queue_ms for result in results)


def test_a_full_queue_refuses_and_keeps_serving(model: LoadedModel) -> None:
    engine = Engine(model, Settings(kv_memory_bytes=8_000_000, max_running=1, max_waiting=2))
    engine.start()
    hold = threading.Event()
    try:
        first = submit(engine, make(model, "first"), lambda event: hold.wait(SECONDS))
        while engine.stats().running == 0:
            pass
        waiting = [submit(engine, make(model, f"w{index}")) for index in range(2)]
        with pytest.raises(QueueFull):
            submit(engine, make(model, "too many"))
        hold.set()
        assert [call.result().finish_reason for call in [first, *waiting]] == ["length"] * 3
    finally:
        hold.set()
        engine.stop(0)


def test_cancelling_frees_the_cache_and_leaves_others_alone(engine: Engine, model: LoadedModel) -> None:
    expected = submit(engine, make(model, "expected", max_new_tokens=30)).result().token_ids
    bystander = submit(engine, make(model, "bystander", max_new_tokens=30))
    call = Call(lambda event: engine.cancel("gone") if len(call.events) == 3 else None)
    engine.submit(make(model, "gone", max_new_tokens=1500), call)
    with pytest.raises(Cancelled):
        call.result()
    assert len(call.events) < 20
    assert bystander.result().token_ids == expected
    assert engine.stats().kv_reserved_bytes == 0
    engine.cancel("never seen")


def test_a_client_that_goes_while_its_long_prompt_runs_frees_the_cache_before_the_end(model: LoadedModel) -> None:
    engine = Engine(model, Settings(kv_memory_bytes=8_000_000))
    ran: list[object] = []
    inner = engine._runner.prefill

    def leaving(*args: object, **kwargs: object) -> torch.Tensor:
        engine.cancel("gone")
        logits = inner(*args, **kwargs)
        ran.append(logits)
        return logits

    engine._runner.prefill = leaving
    engine.start()
    try:
        with pytest.raises(Cancelled):
            submit(engine, make(model, "gone")).result()
        assert not ran
        assert engine.stats().kv_reserved_bytes == 0
        assert submit(engine, make(model, "other")).result().finish_reason == "length"
    finally:
        engine.stop(0)


def test_a_waiting_request_can_be_cancelled(model: LoadedModel) -> None:
    engine = Engine(model, Settings(kv_memory_bytes=8_000_000, max_running=1))
    engine.start()
    try:
        running = submit(engine, make(model, "running", max_new_tokens=40))
        waiting = submit(engine, make(model, "waiting"))
        engine.cancel("waiting")
        with pytest.raises(Cancelled):
            waiting.result()
        assert len(running.result().token_ids) == 40
    finally:
        engine.stop(0)


def test_a_long_prompt_does_not_hold_up_running_requests(model: LoadedModel) -> None:
    engine = Engine(model, Settings(kv_memory_bytes=80_000_000, max_decode_gap_ms=0))
    engine.start()
    try:
        runner, mixed = make(model, "runner", max_new_tokens=60), KVRequest("adakv", ratio=0.4)
        long = make(model, "long", mixed, width=640)
        alone = [submit(engine, request).result().token_ids for request in (runner, long)]
        seen: list[int] = []
        inner = engine._runner.prefill

        def watched(*args: object, **kwargs: object) -> torch.Tensor:
            before = len(call.events)
            logits = inner(*args, **kwargs)
            seen.append(len(call.events) - before)
            return logits

        call = submit(engine, replace(runner, id="again"))
        while len(call.events) < 3:
            pass
        engine._runner.prefill = watched
        other = submit(engine, replace(long, id="long again"))
        assert [call.result().token_ids, other.result().token_ids] == alone
        vision_layers = model.model.config.vision_config.depth
        assert seen == [vision_layers + model.info.num_layers]  # a token between any two layers
    finally:
        engine.stop(0)


class Faulty:
    """Stands in for a runner's method and fails on chosen calls."""

    def __init__(self, inner: Callable[..., torch.Tensor], fails: Callable[[int], bool], error: Exception) -> None:
        self.inner, self.fails, self.error, self.calls = inner, fails, error, 0

    def __call__(self, *args: object, **kwargs: object) -> torch.Tensor:
        self.calls += 1
        if self.fails(self.calls):
            raise self.error
        return self.inner(*args, **kwargs)


def test_out_of_memory_in_prefill_fails_that_request_alone(
    engine: Engine, model: LoadedModel, caplog: pytest.LogCaptureFixture
) -> None:
    expected = submit(engine, make(model, "expected", max_new_tokens=20)).result().token_ids
    engine._runner.prefill = Faulty(engine._runner.prefill, lambda call: call == 2, torch.OutOfMemoryError("no room"))
    requests = [replace(make(model, name, max_new_tokens=20), request_id=f"http {name}") for name in "abc"]
    calls = [submit(engine, request) for request in requests]
    assert calls[0].result().token_ids == calls[2].result().token_ids == expected
    with pytest.raises(OutOfMemory, match="the model ran out of memory"):
        calls[1].result()
    assert engine.stats().kv_reserved_bytes == 0
    told = [(vars(entry)["request_id"], vars(entry)["code"]) for entry in caplog.records if "code" in vars(entry)]
    assert told == [("http b", "out_of_memory")]


def test_out_of_memory_within_a_prompts_layers_gives_back_what_they_held(engine: Engine, model: LoadedModel) -> None:
    expected = submit(engine, make(model, "expected", max_new_tokens=20)).result().token_ids
    layers = model.cache_shape.num_layers
    second_layer_of_b = layers + 2
    engine._cache.put = Faulty(
        engine._cache.put, lambda call: call == second_layer_of_b, torch.OutOfMemoryError("no room")
    )
    calls = [submit(engine, make(model, name, max_new_tokens=20)) for name in "abc"]
    with pytest.raises(OutOfMemory, match="the model ran out of memory"):
        calls[1].result()
    assert calls[0].result().token_ids == calls[2].result().token_ids == expected
    assert engine.stats().kv_reserved_bytes == 0
    assert [engine._cache.tables.used_blocks(layer) for layer in range(layers)] == [0] * layers


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
