"""Decode steps that are replayed: what a CUDA graph does is done here by recording tensor operations on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from headmap.engine.runner import ModelRunner
from headmap.families.loading import LoadedModel
from headmap.head_scores import HeadScores
from headmap.kvcache.backends import blocked
from headmap.kvcache.plan import KVRequest
from headmap.kvcache.planning import plan_cache
from headmap.kvcache.store import LayerStore
from headmap.kvcache.transformers.cache import RaggedCache


class Recorder(TorchDispatchMode):
    """Records every tensor operation; `replay` runs the same ones on the same addresses, and no Python of the model."""

    captures = 0

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.item.default):
            raise AssertionError("a captured step reads a value on the host")
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result

    def replay(self) -> None:
        made: dict[int, torch.Tensor] = {}

        def current(tensor: torch.Tensor) -> torch.Tensor:
            return made.get(id(tensor), tensor)

        for func, args, kwargs, result in self.calls:
            again = func(*tree_map_only(torch.Tensor, current, args), **tree_map_only(torch.Tensor, current, kwargs))
            pairs = zip(tree_leaves(result), tree_leaves(again), strict=True)
            made |= {id(old): new for old, new in pairs if isinstance(old, torch.Tensor)}
        self.made = made


def record(step: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor]:
    """As `capture_on_cuda`: the step's operations and the tensor that holds its result after each replay."""
    recorder = Recorder()
    with recorder:
        result = step()
    held = result.clone()

    def replay() -> None:
        recorder.replay()
        held.copy_(recorder.made[id(result)])

    Recorder.captures += 1
    return replay, held


@pytest.fixture
def captures() -> Callable[[], int]:
    before = Recorder.captures
    return lambda: Recorder.captures - before


def admitted(runner: ModelRunner, model: LoadedModel, seed: int) -> tuple[int, int, int]:
    """A sequence after its prefill under a budget: slot, first token, position."""
    picture = Image.fromarray(np.random.default_rng(seed).integers(0, 255, (56, 72, 3), dtype=np.uint8))
    content = [{"type": "image"}, {"type": "text", "text": "What is it?"}]
    prompt = model.prepare([{"role": "user", "content": content}], [picture])
    info = model.info
    scores = HeadScores(np.random.default_rng(1).random((info.num_layers, info.num_heads)) ** 6, info.num_kv_heads)
    plan = plan_cache(KVRequest("sparsemm", ratio=0.5), model.cache_shape, prompt.prompt_tokens, scores)
    slot = runner.cache.admit(runner.cache.reservation(plan, 40))
    return slot, int(runner.prefill(slot, plan, prompt).argmax()), prompt.next_position


def attend_whole(queries: torch.Tensor, store: LayerStore, scaling: float) -> torch.Tensor:
    """Over all blocks there are, sorted in the step, as the kernels do: a captured step cannot follow what changes."""
    store.used, store._in_use = len(store.owner), None
    return blocked.attend(queries, store, scaling)


def decoded(model: LoadedModel, capture: Any) -> list[torch.Tensor]:
    """Logits of steps of one, three and two sequences, past the end of their blocks; one is released on the way."""
    cache = RaggedCache(
        model.cache_shape, dtype=torch.float32, device=torch.device("cpu"), block_size=8, attend=attend_whole
    )
    runner = ModelRunner(model, cache, capture=capture)
    if runner.graphed is not None:
        runner.graphed.steps_at_rest = 1
    running = [admitted(runner, model, 0)]
    seen = []

    def step() -> None:
        logits = runner.decode(*(list(column) for column in zip(*running, strict=True)))
        seen.append(logits.clone())
        running[:] = [(slot, int(row.argmax()), at + 1) for (slot, _, at), row in zip(running, logits, strict=True)]

    for _ in range(5):
        step()
    running += [admitted(runner, model, seed) for seed in (1, 2)]
    for _ in range(12):
        step()
    cache.release(running.pop(0)[0])
    for _ in range(5):
        step()
    return seen


@pytest.mark.parametrize("family", ["qwen2_vl", "llava_next_llama"])
def test_replayed_steps_equal_steps(
    family: str, small_model: Callable[[str], LoadedModel], captures: Callable[[], int]
) -> None:
    model = small_model(family)
    expected = decoded(model, None)
    replayed = decoded(model, record)
    for one, other in zip(expected, replayed, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    assert 0 < captures() < len(expected) / 2


def test_where_a_graph_finds_no_memory_steps_run_as_they_are(
    small_model: Callable[[str], LoadedModel], captures: Callable[[], int]
) -> None:
    tries: list[int] = []

    def capture(step: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor]:
        tries.append(1)
        step()  # by then tokens are written
        raise torch.OutOfMemoryError("no room for a graph")

    model = small_model("qwen2_vl")
    for one, other in zip(decoded(model, None), decoded(model, capture), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    assert tries
    assert captures() == 0
