"""Conversations, forms and log probabilities in the engine, with small real models."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image

from headmap.engine.engine import Engine
from headmap.engine.messages import EngineRequest, Finished, Token
from headmap.engine.reuse.sessions import SessionTurn
from headmap.engine.sampling.grammar import Grammars
from headmap.engine.sampling.params import SamplingParams
from headmap.engine.vocabulary import read_vocabulary
from headmap.errors import InvalidParameter
from headmap.families.loading import LoadedModel
from headmap.kvcache.methods import METHODS
from headmap.kvcache.plan import KVRequest
from headmap.settings import Settings
from tests.shared.engine.driving import assert_all_free, make, submit
from tests.shared.kvcache.transformers.test_cache import picture, scores_of

MEMORY = 8_000_000


@pytest.fixture(scope="module", params=["qwen2_vl", "llava_next_mistral"])
def model(request: pytest.FixtureRequest, small_model: Callable[[str], LoadedModel]) -> LoadedModel:
    return replace(small_model(request.param), eos_token_ids=frozenset())


@pytest.fixture
def engine(model: LoadedModel) -> Iterator[Engine]:
    engine = Engine(model, Settings(kv_memory_bytes=MEMORY, session_memory_bytes=MEMORY))
    engine.start()
    yield engine
    engine.stop(0)


Messages = list[dict[str, Any]]


def first_turn(seed: int = 0) -> tuple[Messages, list[Image.Image]]:
    content = [{"type": "image"}, {"type": "text", "text": "What is it?"}]
    return [{"role": "user", "content": content}], [picture(72, 56, seed)]


def request(
    model: LoadedModel,
    messages: Messages,
    images: list[Image.Image],
    *,
    session: str | None = None,
    kv: KVRequest | None = None,
    new_tokens: int = 6,
) -> EngineRequest:
    kv = kv or KVRequest("full")
    digests = tuple(str(hash(image.tobytes())) for image in images)
    turn = None if session is None else SessionTurn(session, kv, digests)
    sampling = SamplingParams(max_new_tokens=new_tokens, seed=7)
    prompt = model.prepare(messages, images)
    return EngineRequest(f"{session} {len(messages)}", prompt, kv, sampling, scores_of(model), session=turn)


def talk(
    engine: Engine, model: LoadedModel, turns: int, session: str | None, kv: KVRequest | None = None, pictures: int = 0
) -> list[Finished]:
    """Turns of one conversation, each with what was answered before; the second has `pictures` of its own."""
    messages, images = first_turn()
    results = []
    for number in range(turns):
        result = submit(engine, request(model, messages, images, session=session, kv=kv)).result()
        results.append(result)
        more = pictures if number == 0 else 0
        question = [{"type": "image"}] * more + [{"type": "text", "text": f"And now {number}?"}]
        messages = [
            *messages,
            {"role": "assistant", "content": [{"type": "text", "text": result.generated_text}]},
            {"role": "user", "content": question},
        ]
        images = images + [picture(64 + 16 * n, 48, n + 5) for n in range(more)]
    return results


@pytest.mark.parametrize("pictures", [0, 1])
def test_answers_with_a_session_equal_those_without(engine: Engine, model: LoadedModel, pictures: int) -> None:
    alone = talk(engine, model, 3, None, pictures=pictures)
    kept = talk(engine, model, 3, "talk", pictures=pictures)
    assert [result.token_ids for result in kept] == [result.token_ids for result in alone]
    assert [result.reused_tokens > 0 for result in kept] == [False, True, True]
    assert all(result.session_kept for result in kept)
    assert [result.kept_tokens for result in kept] == [result.kept_tokens for result in alone]
    assert not any(result.reused_tokens or result.session_kept for result in alone)
    assert_all_free(engine)
    assert engine.stats().session_bytes > 0


@pytest.mark.parametrize("method", [method for method in METHODS if method != "full"])
def test_a_compressed_past_stays_and_a_text_turn_is_kept_whole(engine: Engine, model: LoadedModel, method: str) -> None:
    first, second = talk(engine, model, 2, "talk", KVRequest(method, ratio=0.3))
    heads = model.cache_shape.full_tokens(1)
    assert second.reused_tokens == first.full_tokens // heads
    new = second.full_tokens // heads - second.reused_tokens
    assert second.kept_tokens == first.kept_tokens + new * heads


def test_a_turn_with_a_picture_is_compressed_by_itself(engine: Engine, model: LoadedModel) -> None:
    first, second = talk(engine, model, 2, "talk", KVRequest("snapkv", ratio=0.3), pictures=1)
    heads = model.cache_shape.full_tokens(1)
    new = second.full_tokens // heads - second.reused_tokens
    assert second.kept_tokens == first.kept_tokens + int(new * 0.3) * heads


def test_another_picture_of_the_same_size_is_prefilled_afresh(engine: Engine, model: LoadedModel) -> None:
    messages, images = first_turn()
    result = submit(engine, request(model, messages, images, session="talk")).result()
    more = [
        *messages,
        {"role": "assistant", "content": result.generated_text},
        {"role": "user", "content": [{"type": "text", "text": "And now?"}]},
    ]
    _, others = first_turn(seed=1)
    fresh = submit(engine, request(model, more, others, session="talk")).result()
    assert fresh.reused_tokens == 0
    assert fresh.token_ids == submit(engine, request(model, more, others)).result().token_ids


def test_two_requests_may_go_on_from_one_session_at_once(engine: Engine, model: LoadedModel) -> None:
    messages, images = first_turn()
    result = submit(engine, request(model, messages, images, session="talk")).result()
    more = [[*messages, {"role": "assistant", "content": result.generated_text}, {"role": "user", "content": text}]
            for text in ("And now?", "Or then?")]  # fmt: skip
    requests = [request(model, turns, images, session="talk", new_tokens=12) for turns in more]
    alone = [submit(engine, replace(one, session=None)).result().token_ids for one in requests]
    calls = [submit(engine, replace(one, id=str(number))) for number, one in enumerate(requests)]
    results = [call.result() for call in calls]
    assert [one.token_ids for one in results] == alone
    assert all(one.reused_tokens for one in results)


def test_a_dropped_session_is_prefilled_afresh(engine: Engine, model: LoadedModel) -> None:
    talk(engine, model, 1, "talk")
    assert engine.drop_session("talk")
    assert not engine.drop_session("talk")
    assert engine.stats().session_bytes == 0
    assert [result.reused_tokens > 0 for result in talk(engine, model, 2, "talk")] == [False, True]


def test_sessions_keep_to_their_memory(model: LoadedModel) -> None:
    engine = Engine(model, Settings(kv_memory_bytes=MEMORY, session_memory_bytes=120_000))
    engine.start()
    try:
        for name in "abcd":
            assert talk(engine, model, 1, name)[0].session_kept
            assert 0 < engine.stats().session_bytes <= 120_000
        assert engine.drop_session("d")
        assert not engine.drop_session("a")
        engine.sessions.memory_bytes = 1000
        assert not talk(engine, model, 1, "e")[0].session_kept
    finally:
        engine.stop(0)


def test_a_refused_or_failed_turn_leaves_the_session_free(engine: Engine, model: LoadedModel) -> None:
    talk(engine, model, 1, "talk")
    messages, images = first_turn()
    too_long = request(model, messages, images, session="talk", new_tokens=5000)
    with pytest.raises(Exception, match="context"):
        submit(engine, too_long)
    engine.drop_session("talk")
    assert engine.stats().session_bytes == 0


# ---- log probabilities and forms


def test_log_probabilities_are_the_models_own(engine: Engine, model: LoadedModel) -> None:
    plain = submit(engine, make(model, "plain")).result().token_ids
    call = submit(engine, make(model, "a", top_logprobs=3))
    assert call.result().token_ids == plain
    tokens = [event for event in call.events if isinstance(event, Token)]
    for token in tokens:
        assert token.logprob is not None
        assert len(token.top) == 3
        assert token.top[0] == (token.id, pytest.approx(token.logprob))  # greedy: the likeliest is the one chosen
        assert sorted(token.top, key=lambda pair: -pair[1]) == list(token.top)
        assert sum(torch.tensor([value for _, value in token.top]).exp()) < 1.0001
    warm = submit(engine, make(model, "b", top_logprobs=80, do_sample=True, temperature=5.0))
    warm.result()
    total = sum(torch.tensor([value for _, value in warm.events[0].top]).double().exp())  # type: ignore[union-attr]
    assert total == pytest.approx(1, abs=1e-4)


def test_an_answer_keeps_to_its_grammar_beside_others_that_are_free(engine: Engine, model: LoadedModel) -> None:
    grammars = Grammars(read_vocabulary(model.tokenizer), frozenset({3}))
    grammar = grammars.regex("[A-Z]{3}: [0-9]{2}", "grammar")
    free = submit(engine, make(model, "free")).result().token_ids
    calls = [submit(engine, replace(make(model, f"{seed}", do_sample=seed > 0, seed=seed, max_new_tokens=20),
                                    grammar=grammar)) for seed in range(3)]  # fmt: skip
    beside = submit(engine, make(model, "beside"))
    for call in calls:
        result = call.result()
        assert re.fullmatch("[A-Z]{3}: [0-9]{2}", result.generated_text)
        assert result.finish_reason == "eos_token"
    assert beside.result().token_ids == free
    with pytest.raises(InvalidParameter, match="cannot write"):
        grammars.json_schema({"type": "object", "properties": {"é": {}}}, "grammar")


def test_the_same_seed_gives_the_same_text_in_any_company(engine: Engine, model: LoadedModel) -> None:
    asked = [make(model, str(seed), do_sample=True, temperature=1.5, seed=seed, max_new_tokens=24) for seed in range(6)]
    alone = [submit(engine, one).result().token_ids for one in asked]
    for company in (asked, asked[::-1], asked[:2]):
        calls = {one.id: submit(engine, replace(one, id=f"{one.id} of {len(company)}")) for one in company}
        assert {name: call.result().token_ids for name, call in calls.items()} == {
            one.id: alone[int(one.id)] for one in company
        }
    assert len(set(alone)) == 6
