"""Decode steps that are replayed: a CUDA graph runs the same work on the same addresses, which is done here by calling
the captured step again; what it is given may change only in place."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from headmap.engine.graphs import Capture
from headmap.engine.runner import ModelRunner
from headmap.families.loading import LoadedModel
from headmap.kvcache.plan import KVRequest
from tests.shared.kvcache.transformers.test_cache import ask, plan_of, ragged, start

REQUEST = KVRequest("sparsemm", ratio=0.5)


def record(step: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor]:
    """As `CudaCapture`: what runs the step again, and the tensor that then holds its result."""
    held = step().clone()

    def replay() -> None:
        held.copy_(step())

    return replay, held


def decoded(model: LoadedModel, capture: Capture | None) -> tuple[list[torch.Tensor], ModelRunner]:
    """Logits of steps of one, three and two sequences, past the end of their pages; one is released on the way."""
    runner = ModelRunner(model, ragged(model), capture=capture)
    running: list[tuple[int, int, int]] = []
    seen = []

    def join(text: str) -> None:
        prompt = ask(model, text)
        slot, logits = start(runner, prompt, plan_of(model, REQUEST, prompt))
        running.append((slot, int(logits.argmax()), prompt.next_position))

    def step() -> None:
        logits = runner.decode(*(list(column) for column in zip(*running, strict=True)))
        seen.append(logits.clone())
        running[:] = [(slot, int(row.argmax()), at + 1) for (slot, _, at), row in zip(running, logits, strict=True)]

    join("one")
    for _ in range(5):
        step()
    join("two")
    join("another")
    for _ in range(20):
        step()
    runner.cache.release(running.pop(0)[0])
    for _ in range(5):
        step()
    return seen, runner


@pytest.mark.parametrize("family", ["qwen2_vl", "llava_next_llama", "qwen2_vl_sliding"])
def test_replayed_steps_equal_steps(family: str, small_model: Callable[[str], LoadedModel]) -> None:
    model = small_model(family)
    captured: list[int] = []

    def counting(step: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor]:
        captured.append(1)
        return record(step)

    expected, _ = decoded(model, None)
    replayed, runner = decoded(model, counting)
    for one, other in zip(expected, replayed, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    assert runner.graphed is not None
    assert (runner.graphed.replayed, runner.graphed.plain) == (30, 0)
    assert len(captured) == 3  # of one, two and four sequences: no join, no page that was handed out costs another


def test_where_a_graph_finds_no_memory_steps_run_as_they_are(small_model: Callable[[str], LoadedModel]) -> None:
    tries: list[int] = []

    def capture(step: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor]:
        tries.append(1)
        step()  # what it writes is lost: it runs on the idle slot
        raise torch.OutOfMemoryError("no room for a graph")

    model = small_model("qwen2_vl")
    expected, _ = decoded(model, None)
    plain, runner = decoded(model, capture)
    for one, other in zip(expected, plain, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    assert len(tries) == 3
    assert runner.graphed is not None
    assert (runner.graphed.replayed, runner.graphed.plain) == (0, 30)


def test_an_error_that_is_not_memory_is_told(small_model: Callable[[str], LoadedModel]) -> None:
    def capture(step: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor]:
        raise RuntimeError("this step cannot be captured")

    with pytest.raises(RuntimeError, match="cannot be captured"):
        decoded(small_model("qwen2_vl"), capture)
