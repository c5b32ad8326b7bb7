"""The engine with small real models: one terminal event each, whatever happens to the others."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch

from headmap.engine.engine import Engine
from headmap.engine.messages import Cancelled, Token
from headmap.engine.sampling.params import SamplingParams
from headmap.errors import (
    HeadmapError,
    PromptTooLong,
    QueueFull,
    RequestTooLarge,
    UnknownMethod,
)
from headmap.families.base import PreparedPrompt
from headmap.families.loading import LoadedModel
from headmap.kvcache.methods import METHODS
from headmap.kvcache.plan import KVRequest
from headmap.kvcache.planning import plan_cache
from headmap.kvcache.pool.paging import Paging
from headmap.settings import Settings
from tests.shared.engine.driving import SECONDS, Call, assert_all_free, make, submit


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


@pytest.mark.parametrize("name", ["temperature", "top_p"])
@pytest.mark.parametrize("value", [1e-7, 1e-38, 1e-45, 1e-300, 5e-324])
def test_next_to_no_chance_is_none(engine: Engine, model: LoadedModel, name: str, value: float) -> None:
    greedy = submit(engine, make(model, "greedy", top_logprobs=1)).result()
    chance = {"temperature": 2.0, name: value}
    drawn = submit(engine, make(model, "drawn", do_sample=True, top_logprobs=1, **chance)).result()
    assert drawn.token_ids == greedy.token_ids
    other = submit(engine, make(model, "other", do_sample=True, temperature=2.0)).result()
    assert other.token_ids != greedy.token_ids


def test_a_seed_of_any_sign_draws_the_same_again_and_others_draw_otherwise(engine: Engine, model: LoadedModel) -> None:
    seeds = [-(2**63), -5, -1, 0, 1, 2**63 - 1]

    def answers(round: int) -> list[tuple[int, ...]]:
        asked = [make(model, f"{round} {seed}", do_sample=True, temperature=2.0, seed=seed) for seed in seeds]
        return [call.result().token_ids for call in [submit(engine, one) for one in asked]]

    first = answers(0)
    assert first == answers(1)
    assert len(set(first)) == len(seeds)


def test_the_last_step_counts_in_what_is_told_of_decoding(engine: Engine, model: LoadedModel) -> None:
    assert submit(engine, make(model, "a", max_new_tokens=1)).result().decode_ms_per_token == 0
    assert submit(engine, make(model, "b", max_new_tokens=2)).result().decode_ms_per_token > 0


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


def test_tokens_that_are_told_while_the_next_step_runs_come_in_order(engine: Engine, model: LoadedModel) -> None:
    """As on a GPU: what a step brought is told once the next one has begun, and an answer is what it was."""
    kvs = [KVRequest("sparsemm", ratio=0.3), KVRequest("full"), KVRequest("snapkv", budget=20)]
    requests = [make(model, str(n), kv, 40 + 8 * n, max_new_tokens=20 + n) for n, kv in enumerate(kvs)]
    alone = [submit(engine, request).result() for request in requests]
    stopping = make(model, "stop", kvs[1], 48, max_new_tokens=21, stop=(alone[1].generated_text[5:8],))
    stopped = submit(engine, stopping).result()
    steps, told_before = 0, list[int]()
    inner = engine._runner.decode

    def decode(*args: object) -> torch.Tensor:
        nonlocal steps
        steps += 1
        told_before.append(len(lone.events))
        return inner(*args)

    engine._ends.telling.later, engine._runner.decode = True, decode
    lone = Call()
    engine.submit(replace(requests[0], id="lone"), lone)
    assert lone.result().token_ids == alone[0].token_ids
    assert told_before == list(range(steps))  # the first token too is told once a step runs
    calls = [submit(engine, replace(one, id=f"again {one.id}")) for one in (*requests, stopping)]
    for call, one in zip(calls, (*alone, stopped), strict=True):
        assert (call.result().token_ids, call.result().generated_text) == (one.token_ids, one.generated_text)
    call = Call(lambda event: engine.cancel("gone") if len(call.events) == 3 else None)
    engine.submit(replace(requests[0], id="gone", sampling=replace(requests[0].sampling, max_new_tokens=500)), call)
    with pytest.raises(Cancelled):
        call.result()
    assert all(isinstance(event, Token) for event in call.events[:-1])
    assert_all_free(engine)
