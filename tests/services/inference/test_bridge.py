"""A stream tells the tokens that the whole answer tells, whatever ends it; on the real engine with a small model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from headmap.engine.engine import Engine
from headmap.engine.messages import EngineRequest, Finished, Token
from headmap.engine.sampling.grammar import Grammars
from headmap.engine.vocabulary import read_vocabulary
from headmap.families.loading import LoadedModel
from headmap.registry.session import Database
from headmap.settings import Settings
from services.inference.bridge import Answer, Generation
from services.inference.maps import MapBook
from services.inference.metrics import InferenceMetrics
from services.inference.policies import PolicyBook
from services.inference.served_model import OpenedModel, ServedModel
from tests.shared.engine.driving import make


@pytest.fixture(scope="module")
def model(small_model: Callable[[str], LoadedModel]) -> LoadedModel:
    return replace(small_model("qwen2_vl"), eos_token_ids=frozenset())


@pytest.fixture(scope="module")
def served(model: LoadedModel) -> Iterator[ServedModel]:
    # With a page's worth of steps more than the prompt, an open-ended request soon has all of memory.
    engine = Engine(model, Settings(kv_memory_bytes=130_000))
    engine.start()
    vocabulary, database = read_vocabulary(model.tokenizer), Database("sqlite://")
    opened = OpenedModel(
        prompts=model,
        engine=engine,
        device="cpu",
        dtype="float32",
        longest_token=1,
        eos_token_ids=model.eos_token_ids,
        vocabulary=vocabulary,
        grammars=Grammars(vocabulary, frozenset({model.tokenizer.eos_token_id})),
    )
    maps = MapBook(database, model.info)
    yield ServedModel(model.info, opened, maps, PolicyBook(database, model.info.name, maps))
    engine.stop(0)
    database.close()


def generation(served: ServedModel, request: EngineRequest) -> Generation:
    return Generation(served, request, InferenceMetrics(CollectorRegistry()))


async def whole(served: ServedModel, request: EngineRequest) -> Answer:
    asked = generation(served, request)
    asked.start()
    return await asked.whole()


async def streamed(served: ServedModel, request: EngineRequest) -> list[tuple[Token, Finished | None]]:
    asked = generation(served, request)
    asked.start()
    return [told async for told in asked.tokens()]


def with_sampling(request: EngineRequest, **sampling: Any) -> EngineRequest:
    return replace(request, sampling=replace(request.sampling, **sampling))


async def ending(served: ServedModel, how: str) -> EngineRequest:
    """A request of at least six tokens that ends in this way."""
    assert isinstance(served.opened.prompts, LoadedModel)
    request = make(served.opened.prompts, how, max_new_tokens=24, top_logprobs=3, do_sample=True, temperature=2.0)
    if how == "grammar":
        return replace(request, grammar=served.opened.grammars.regex("[A-C]{6}", "grammar"))
    if how == "memory":
        return replace(with_sampling(request, max_new_tokens=1000), open_ended=True)
    answer = await whole(served, request)
    if how == "stop string":
        return with_sampling(request, stop=(answer.finished.generated_text[7:9],))
    if how == "stop token":
        late = next(token for token in answer.tokens[6:] if token.id not in answer.finished.token_ids[:6])
        return with_sampling(request, stop_token_ids=frozenset({late.id}))
    return request


REASONS = {
    "length": "length",
    "memory": "length",
    "stop string": "stop_sequence",
    "stop token": "eos_token",
    "grammar": "eos_token",
}


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("how", REASONS)
async def test_a_stream_tells_what_the_whole_answer_tells(served: ServedModel, how: str, later: bool) -> None:
    """later: as on a GPU, where tokens are told while the next step runs."""
    request = await ending(served, how)
    answer = await whole(served, request)
    assert isinstance(served.opened.engine, Engine)
    served.opened.engine._ends.telling.later = later
    try:
        told = await streamed(served, replace(request, id="streamed"))
    finally:
        served.opened.engine._ends.telling.later = False
    result = told[-1][1]
    assert result is not None
    assert all(finished is None for _, finished in told[:-1])
    assert result.finish_reason == answer.finished.finish_reason == REASONS[how]
    assert len(told) == len(answer.tokens) >= 6
    assert [(one.id, one.logprob, one.top) for one, _ in told] == [
        (one.id, one.logprob, one.top) for one in answer.tokens
    ]
    assert all(one.logprob is not None and len(one.top) == 3 for one, _ in told)
    assert "".join(one.text for one, _ in told) == answer.finished.generated_text
    assert generation(served, request).ends(told[-1][0].id) == (how == "stop token")


async def test_an_answer_of_no_tokens_still_has_an_end(served: ServedModel) -> None:
    assert isinstance(served.opened.prompts, LoadedModel)
    ((token, finished),) = await streamed(served, make(served.opened.prompts, "none", max_new_tokens=0))
    assert token.text == ""
    assert finished is not None
    assert finished.token_ids == ()


async def test_what_ends_an_answer_is_told_by_one_rule(served: ServedModel, model: LoadedModel) -> None:
    request = make(model, "a", stop_token_ids=frozenset({5}))
    ended = replace(served, opened=replace(served.opened, eos_token_ids=frozenset({3})))
    assert [generation(ended, request).ends(token) for token in (3, 5, 7)] == [True, True, False]
    ignoring = with_sampling(request, ignore_eos=True)
    assert [generation(ended, ignoring).ends(token) for token in (3, 5, 7)] == [False, True, False]


@pytest.mark.parametrize("seed", [0, -5, -1, 2**63 - 2, -(2**63)])
async def test_choices_have_the_seeds_that_follow(served: ServedModel, model: LoadedModel, seed: int) -> None:
    first = generation(served, make(model, "a", seed=seed))
    seeds = [first.again(number).request.sampling.seed for number in range(4)]
    assert seeds[0] == seed
    assert len(set(seeds)) == 4
    assert [(one - seed) % 2**64 for one in seeds] == [0, 1, 2, 3]
    if seed < 2**63 - 4:
        assert seeds == [seed, seed + 1, seed + 2, seed + 3]
