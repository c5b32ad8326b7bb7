"""Decode steps whose layers are compiled. Torch traces them here, as always, but generates no code: that takes long."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from headmap.engine import compiled
from headmap.engine.runner import ModelRunner
from headmap.families.loading import LoadedModel, load_model
from headmap.kvcache.plan import KVRequest
from headmap.kvcache.transformers.head_masks import HeadMask
from headmap.models import read_model
from tests.shared.kvcache.transformers.test_cache import ask, plan_of, ragged, start

COUNTS = (3, 1, 2, 1, 4)


@pytest.fixture
def small_model(model_folder: Callable[[str], Path]) -> Callable[[str], LoadedModel]:
    """A model of this test's own: once a caller has asked a model for hidden states, transformers leaves hooks on its
    layers, which cannot be compiled.
    """
    return lambda name: load_model(read_model(name, model_folder(name)), device="cpu")


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[CompileCounter]:
    """Counts the functions that were compiled."""
    counter, compile_ = CompileCounter(), torch.compile

    def trace(function: Callable[..., object], *, fullgraph: bool, dynamic: bool | None = None, **_: object) -> object:
        return compile_(function, fullgraph=fullgraph, dynamic=dynamic, backend=counter)

    monkeypatch.setattr(torch, "compile", trace)
    compiled.compiled.cache_clear()
    yield counter
    compiled.compiled.cache_clear()
    torch._dynamo.reset()


def decoded(runner: ModelRunner) -> list[torch.Tensor]:
    """Logits of steps of some counts of sequences, each with a prompt and a budget of its own."""
    prompts = [ask(runner.loaded, text) for text in ("one", "another", "a third of more tokens", "four")]
    plans = [plan_of(runner.loaded, KVRequest("sparsemm", ratio=0.5), prompt) for prompt in prompts]
    slots = [start(runner, prompt, plan)[0] for prompt, plan in zip(prompts, plans, strict=True)]
    places = [prompt.next_position for prompt in prompts]
    seen = []
    for step, count in enumerate(COUNTS):
        order = [(step + number) % len(slots) for number in range(count)]
        seen.append(runner.decode([slots[n] for n in order], [7 + n for n in order], [places[n] for n in order]))
        for number in order:
            places[number] += 1
    return seen


@pytest.mark.parametrize("family", ["qwen2_vl", "llava_next_llama", "qwen2_vl_sliding", "gemma3"])
def test_compiled_layers_equal_the_models_own(
    family: str, small_model: Callable[[str], LoadedModel], traced: CompileCounter
) -> None:
    model = small_model(family)
    weights = {name: value.data_ptr() for name, value in model.model.named_parameters()}
    expected = decoded(ModelRunner(model, ragged(model)))
    for own, other in zip(decoded(ModelRunner(model, ragged(model), compiled=True)), expected, strict=True):
        torch.testing.assert_close(own, other, atol=1e-5, rtol=1e-5)
    assert traced.frame_count > 0
    made = traced.frame_count
    decoded(ModelRunner(model, ragged(model), compiled=True))
    assert traced.frame_count == made  # another engine of the model takes what is compiled
    assert {name: value.data_ptr() for name, value in model.model.named_parameters()} == weights


def test_more_layers_and_larger_batches_compile_nothing_more(
    small_model: Callable[[str], LoadedModel], traced: CompileCounter
) -> None:
    model = small_model("llava_next_llama")
    decoded(ModelRunner(model, ragged(model), compiled=True))
    layers = model.cache_shape.num_layers
    assert traced.frame_count <= 3 < layers * len(set(COUNTS))


def test_a_text_model_without_a_list_of_its_layers_is_refused(small_model: Callable[[str], LoadedModel]) -> None:
    model = small_model("qwen2_vl")
    with pytest.raises(ValueError, match="Linear has 0 lists of 3 layers"):
        compiled.compiled_text(torch.nn.Linear(1, 1), model.cache_shape)


def test_masked_heads_are_refused(small_model: Callable[[str], LoadedModel]) -> None:
    model = small_model("qwen2_vl")
    with pytest.raises(ValueError, match="masked heads"):
        ModelRunner(model, ragged(model), HeadMask([(0, 0)]), compiled=True)
