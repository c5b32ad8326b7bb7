"""The engine with small real models: one terminal event each, whatever happens to the others."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from headmap.engine.engine import Engine
from headmap.engine.messages import Cancelled, EngineRequest, Event, Failed, Finished, OnEvent, Token
from headmap.engine.sampling.params import SamplingParams
from headmap.errors import (
    DeviceFailed,
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
from headmap.kvcache.planning import plan_cache
from headmap.kvcache.pool.paging import Paging
from headmap.kvcache.transformers.prefill import Prompt
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


def assert_all_free(engine: Engine) -> None:
    """A client hears of its end before the memory is free."""
    until = time.monotonic() + SECONDS
    while engine.stats().kv_held_bytes and time.monotonic() < until:
        time.sleep(0.001)
    assert engine.stats().kv_held_bytes == 0


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
    assert_all_free(engine)
    assert engine.stats().running == engine.stats().waiting == 0


def test_what_is_told_of_the_cache_is_what_was_kept(engine: Engine, model: LoadedModel) -> None:
    request = make(model, "a", KVRequest("sparsemm", ratio=0.25))
    done = submit(engine, request).result()
    n, shape = request.prompt.prompt_tokens, model.cache_shape
    assert done.budget == n // 4
    assert done.kept_tokens == n // 4 * 6
    assert done.full_tokens == n * 6
    paging = Paging(shape)
    plan = plan_cache(request.kv, shape, n, request.scores)
    assert done.kv_bytes == int((-(-plan.tokens // paging.page_tokens)).sum()) * paging.page_bytes  # whole pages
    assert done.kv_full_bytes == 6 * -(-n // paging.page_tokens) * paging.page_bytes


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
        look = lambda event: peaks.append(engine.stats().kv_held_bytes)  # noqa: E731
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
    assert_all_free(engine)
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
        assert_all_free(engine)
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


@contextmanager
def prefill_fails(engine: Engine, when: Callable[[int], bool], error: Exception) -> Iterator[None]:
    """Prefills of so many prompts, `when` says, fail."""
    inner = engine._runner.prefill

    def faulty(prompts: Sequence[Prompt], *args: object, **kwargs: object) -> torch.Tensor:
        if when(len(prompts)):
            raise error
        return inner(prompts, *args, **kwargs)

    engine._runner.prefill = faulty
    try:
        yield
    finally:
        engine._runner.prefill = inner


def at_once(engine: Engine, requests: Sequence[EngineRequest]) -> list[Call]:
    """Submitted at one moment: those behind the first are prefilled together."""
    with engine._wake:  # its lock is reentrant; the engine looks once all are in the queue
        return [submit(engine, request) for request in requests]


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


def test_out_of_memory_in_prefill_fails_that_request_alone(
    engine: Engine, model: LoadedModel, caplog: pytest.LogCaptureFixture
) -> None:
    expected = submit(engine, make(model, "expected", max_new_tokens=20)).result().token_ids
    engine._runner.prefill = Faulty(engine._runner.prefill, lambda call: call == 1, torch.OutOfMemoryError("no room"))
    requests = [replace(make(model, name, max_new_tokens=20), request_id=f"http {name}") for name in "abc"]
    with pytest.raises(OutOfMemory, match="the model ran out of memory"):
        submit(engine, requests[1]).result()
    assert_all_free(engine)
    assert submit(engine, requests[0]).result().token_ids == expected
    told = [(vars(entry)["request_id"], vars(entry)["code"]) for entry in caplog.records if "code" in vars(entry)]
    assert told == [("http b", "out_of_memory")]


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


def test_stopping_does_not_wait_for_a_prefill(model: LoadedModel) -> None:
    engine = Engine(model, Settings(kv_memory_bytes=8_000_000))
    begun, hold, layers = threading.Event(), threading.Event(), 0

    def between_layers() -> None:
        nonlocal layers
        layers += 1
        begun.set()
        hold.wait(SECONDS)
        inner()

    inner, engine._between_layers = engine._between_layers, between_layers
    engine.start()
    call = submit(engine, make(model, "a"))
    begun.wait(SECONDS)
    ending = threading.Thread(target=engine.stop, args=(0,))
    ending.start()
    while engine._stop_at is None:
        pass
    hold.set()
    with pytest.raises(ShuttingDown):
        call.result()
    ending.join(SECONDS)
    assert layers == 1


def preempting(model: LoadedModel, **settings: object) -> Engine:
    """An engine with memory for the prompts of a few requests and the answer of one of them."""
    request = make(model, "probe", KVRequest("sparsemm", ratio=0.3), max_new_tokens=200)
    plan = plan_cache(request.kv, model.cache_shape, request.prompt.prompt_tokens, request.scores)
    paging = Paging(model.cache_shape)
    pages = paging.sequence(plan, 200) + 3 * paging.sequence(plan, 33)
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
                model, str(n), KVRequest("sparsemm", ratio=0.3), 64 + 8 * (n % 3), max_new_tokens=200, seed=n,
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

        requests = [make(model, str(n), KVRequest("sparsemm", ratio=0.3), max_new_tokens=200) for n in range(4)]
        with engine._wake:
            calls = [submit(engine, request, look) for request in requests]
        assert len({call.result().token_ids for call in calls}) == 1
        assert most > 1
    finally:
        engine.stop(0)


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
