"""How an engine finds out how its steps run. Graphs are captured as in `test_graphs`: by calling the step again."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch

from headmap.engine.decode_choice import choose_compiled, choose_graphs
from headmap.engine.engine import Engine
from headmap.engine.runner import ModelRunner
from headmap.errors import DeviceFailed, Unavailable
from headmap.families.loading import LoadedModel
from headmap.kvcache.backends.torch_ops import TorchBackend
from headmap.kvcache.transformers.cache import RaggedCache
from headmap.settings import Settings
from tests.shared.engine.test_graphs import record
from tests.shared.kvcache.transformers.test_cache import ragged

Step = Callable[[], torch.Tensor]
Captured = tuple[Callable[[], None], torch.Tensor]


class Capturable(TorchBackend):
    """Each step that is not replayed is slow, as where Python is slower than the device."""

    capturable = True
    seconds = 0.0

    def attend(self, *args, **kwargs) -> torch.Tensor:
        time.sleep(self.seconds)
        return super().attend(*args, **kwargs)


def replayed(
    step: Step, backend: Capturable, change: Callable[[torch.Tensor], torch.Tensor], seconds: float
) -> Captured:
    held = step().clone()

    def replay() -> None:
        before, backend.seconds = backend.seconds, seconds
        held.copy_(change(step()))
        backend.seconds = before

    return replay, held


def same(logits: torch.Tensor) -> torch.Tensor:
    return logits


@pytest.fixture
def model(small_model: Callable[[str], LoadedModel]) -> LoadedModel:
    return small_model("qwen2_vl_sliding")


def choose(model: LoadedModel, mode: str, *, plain: float = 0.0, graphed: float = 0.0, change=same):
    pool = ragged(model).pool
    backend = Capturable(pool)
    backend.seconds = plain
    cache = RaggedCache(pool, backend)
    try:
        plain = ModelRunner(model, cache)
        return choose_graphs(mode, plain, lambda: lambda step: replayed(step, backend, change, graphed))
    finally:
        assert pool.held_bytes == 0  # nothing is left of the made-up sequences


def test_graphs_that_are_right_and_faster_serve(model: LoadedModel) -> None:
    choice, runner = choose(model, "auto", plain=0.02)
    assert choice.chosen == "on"
    assert all(one.right for one in choice.tried)
    assert choice.gain is not None
    assert choice.gain > 1
    assert runner.graphed is not None


def test_graphs_that_are_slower_serve_only_where_they_are_asked_for(model: LoadedModel) -> None:
    choice, runner = choose(model, "auto", graphed=0.02)
    assert (choice.chosen, runner.graphed) == ("off", None)
    choice, runner = choose(model, "on", graphed=0.02)
    assert choice.chosen == "on"
    assert runner.graphed is not None


def test_graphs_that_are_wrong_never_serve(model: LoadedModel) -> None:
    choice, runner = choose(model, "auto", plain=0.02, change=lambda logits: logits.roll(1, 0))
    assert (choice.chosen, runner.graphed) == ("off", None)
    assert "wrong by" in str(choice)
    with pytest.raises(Unavailable, match=r"HEADMAP_CUDA_GRAPHS=on: wrong by"):
        choose(model, "on", change=lambda logits: logits.roll(1, 0))


def test_a_capture_that_fails_is_told_and_steps_run_without(model: LoadedModel) -> None:
    def fail(message: str) -> Callable[[torch.Tensor], torch.Tensor]:
        def change(logits: torch.Tensor) -> torch.Tensor:
            raise RuntimeError(message)

        return change

    choice, runner = choose(model, "auto", change=fail("operation not permitted when stream is capturing"))
    assert (choice.chosen, runner.graphed) == ("off", None)
    assert "it fails: RuntimeError: operation not permitted" in str(choice)
    with pytest.raises(DeviceFailed):
        choose(model, "auto", change=fail("CUDA error: an illegal memory access was encountered"))


def test_a_device_or_a_backend_without_graphs_says_so(model: LoadedModel) -> None:
    pool = ragged(model).pool
    plain = ModelRunner(model, RaggedCache(pool, TorchBackend(pool)))
    choice, _ = choose_graphs("auto", plain, None)
    assert (choice.chosen, choice.tried[0].reason) == ("off", "cpu has none")
    choice, _ = choose_graphs("auto", plain, lambda: pytest.fail("asked"))
    assert choice.tried[0].reason == "backend torch cannot be captured"
    with pytest.raises(Unavailable, match="HEADMAP_CUDA_GRAPHS=on: cpu has none"):
        choose_graphs("on", plain, None)


def test_only_replayed_steps_have_compiled_layers(model: LoadedModel) -> None:
    plain = ModelRunner(model, ragged(model))
    choice, runner = choose_compiled("auto", plain, lambda: pytest.fail("asked"))
    assert (choice.chosen, choice.tried[0].reason) == ("off", "steps are no graphs")
    assert runner is plain
    with pytest.raises(Unavailable, match="HEADMAP_COMPILE_LAYERS=on: steps are no graphs"):
        choose_compiled("on", plain, None)


def test_layers_that_cannot_be_compiled_are_told_and_steps_run_without(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise RuntimeError("no compiler here")

    monkeypatch.setattr("headmap.engine.compiled.compiled", refuse)
    _, graphed = choose(model, "on")
    choice, runner = choose_compiled("auto", graphed, lambda: record)
    assert (choice.chosen, runner) == ("off", graphed)
    assert choice.tried[0].reason == "it fails: RuntimeError: no compiler here"
    choice, runner = choose_compiled("off", graphed, lambda: record)
    assert (choice.tried[0].reason, runner) == ("not asked for", graphed)


def test_an_engine_tells_what_it_found_out(model: LoadedModel, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="headmap.engine.engine"):
        engine = Engine(model, Settings(kv_memory_bytes=8_000_000))
    assert engine.choice.attention.chosen in ("torch", "native")
    assert {one.name for one in engine.choice.attention.tried} == {"native", "torch"}
    assert (engine.choice.graphs.chosen, engine.choice.compiled.chosen) == ("off", "off")
    assert [record.getMessage() for record in caplog.records] == [f"{model.info.name}: {engine.choice}"]


def test_graphs_that_are_asked_for_on_a_cpu_are_refused(model: LoadedModel) -> None:
    with pytest.raises(Unavailable, match="HEADMAP_CUDA_GRAPHS=on"):
        Engine(model, Settings(kv_memory_bytes=8_000_000, cuda_graphs="on"))


@pytest.mark.parametrize(
    ("said", "meant"), [("true", "on"), ("FALSE", "off"), ("0", "off"), ("on", "on"), ("auto", "auto")]
)
def test_graphs_take_the_words_of_old_settings(said: str, meant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADMAP_CUDA_GRAPHS", said)
    assert Settings().cuda_graphs == meant
