"""Log probabilities of prompts: what the model's own forward gives, whatever else is asked of the request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText

from headmap.engine.engine import Engine
from headmap.engine.messages import EngineRequest, Finished, Token
from headmap.engine.prompt_logprobs import prompt_logprobs
from headmap.engine.reuse.sessions import SessionTurn
from headmap.families.loading import LoadedModel
from headmap.kvcache.plan import KVRequest
from headmap.kvcache.planning import plan_cache
from headmap.kvcache.pool.paging import Paging
from headmap.settings import Settings
from tests.shared.engine.driving import at_once, make, submit


def told(finished: Finished) -> list[float | None]:
    return [token.logprob for token in finished.prompt_logprobs]


def request(model: LoadedModel, name: str = "a", top: int = 2, **more: object) -> EngineRequest:
    return replace(make(model, name, **more), prompt_logprobs=top)  # type: ignore[arg-type]


@torch.inference_mode()
def test_they_are_those_of_transformers(
    engine: Engine, model: LoadedModel, model_folder: Callable[[str], Path]
) -> None:
    text = model.prepare_text("What is it? It is a page of text.")
    ids = text.inputs["input_ids"]
    plain = make(model, "a", KVRequest("snapkv", budget=4), max_new_tokens=1)
    finished = submit(engine, replace(plain, prompt=text, prompt_logprobs=3)).result()
    theirs = AutoModelForImageTextToText.from_pretrained(model_folder("qwen2_vl"), dtype=torch.float32).eval()
    logs = theirs(input_ids=ids).logits[0].log_softmax(-1)
    expected = [float(one[token]) for one, token in zip(logs, ids[0, 1:].tolist(), strict=False)]
    assert finished.prompt_logprobs[0].logprob is None
    assert told(finished)[1:] == pytest.approx(expected, abs=1e-4)
    assert [token.id for token in finished.prompt_logprobs] == ids[0].tolist()
    for token, one in zip(finished.prompt_logprobs[1:], logs, strict=False):
        assert [value for _, value in token.top] == pytest.approx(one.topk(3).values.tolist(), abs=1e-4)


def test_pictures_have_none_and_all_else_does(engine: Engine, model: LoadedModel) -> None:
    asked = request(model)
    finished = submit(engine, asked).result()
    image = model.family.image_token_id(model.model.config)
    missing = [token.id for token in finished.prompt_logprobs[1:] if token.logprob is None]
    assert missing == [image] * asked.prompt.image_tokens
    assert len(finished.prompt_logprobs) == asked.prompt.prompt_tokens


def test_neither_batch_nor_method_nor_length_changes_them(engine: Engine, model: LoadedModel) -> None:
    alone = told(submit(engine, request(model)).result())
    others = [
        request(model, "b", kv=KVRequest("snapkv", budget=8)),
        make(model, "c", width=96),
        request(model, "d", max_new_tokens=0),
        request(model, "e", do_sample=True, temperature=3.0, repetition_penalty=2.0),
    ]
    packed = [call.result() for call in at_once(engine, others)]
    for finished, asked in zip(packed, others, strict=True):
        expected = [] if asked.prompt_logprobs is None else alone
        assert told(finished) == [value if value is None else pytest.approx(value, abs=1e-4) for value in expected]


def test_a_session_is_kept_for_its_next_turn_and_not_gone_on_from(engine: Engine, model: LoadedModel) -> None:
    turn = SessionTurn(("caller", "s"), "full", ("digest",))
    asked = replace(request(model), session=turn)
    first = submit(engine, asked).result()
    again = submit(engine, replace(asked, id="again")).result()
    assert first.session_kept
    assert again.reused_tokens == 0
    assert told(again) == told(first)


def test_who_has_to_wait_again_has_them_computed_once(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[None] = []

    def counted(*args: Any) -> tuple[Token, ...]:
        computed.append(None)
        return prompt_logprobs(*args)

    monkeypatch.setattr("headmap.engine.prompts.prompt_logprobs", counted)
    requests = [request(model, name, max_new_tokens=60) for name in "ab"]
    page_bytes = Paging(model.cache_shape).page_bytes
    plan = plan_cache(requests[0].kv, model.cache_shape, requests[0].prompt.prompt_tokens, None)
    together = sum(Paging(model.cache_shape).sequence(plan, new_tokens) for new_tokens in (60, 16))
    engine = Engine(model, Settings(kv_memory_bytes=together * page_bytes))
    engine.start()
    try:
        first, second = [call.result() for call in at_once(engine, requests)]
        assert engine.stats().preempted_total > 0
        assert len(computed) == 2
    finally:
        engine.stop(0)
    assert told(first) == [value if value is None else pytest.approx(value, abs=1e-4) for value in told(second)]
    assert len(told(second)) == requests[0].prompt.prompt_tokens


def test_running_requests_get_their_tokens_while_they_are_computed(
    engine: Engine, model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headmap.engine.prompt_logprobs._ROWS", 1)
    monkeypatch.setattr(engine._prompts, "_max_decode_gap", 0.0)
    running = submit(engine, make(model, "running", max_new_tokens=300))
    while len(running.events) < 2:
        pass
    before: list[int] = []
    inner = engine._prompts._tell_prompts

    def watched(*args: Any) -> None:
        before.append(len(running.events))
        inner(*args)
        before.append(len(running.events))

    monkeypatch.setattr(engine._prompts, "_tell_prompts", watched)
    asked = request(model, "asked")
    submit(engine, asked).result()
    pieces = asked.prompt.prompt_tokens - 1 - asked.prompt.image_tokens
    assert before[1] - before[0] == pieces
    assert len(running.result().token_ids) == 300


def test_choices_of_a_prompt_all_tell_them(engine: Engine, model: LoadedModel) -> None:
    group = [replace(request(model, str(n), seed=n, do_sample=True), group="g") for n in range(3)]
    first, *others = [told(call.result()) for call in at_once(engine, group)]
    assert all(other == first for other in others)


def test_long_prompts_are_told_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    head, hidden = torch.nn.Linear(8, 40, bias=False), torch.randn(30, 8)
    ids = torch.randint(0, 40, (30,)).tolist()
    whole = prompt_logprobs(head, hidden, ids, 2, image_token=-1)
    monkeypatch.setattr("headmap.engine.prompt_logprobs._ROWS", 7)
    pieces = prompt_logprobs(head, hidden, ids, 2, image_token=-1)
    assert [token.id for token in pieces] == ids
    assert [token.logprob for token in pieces[1:]] == pytest.approx([token.logprob for token in whole[1:]])
