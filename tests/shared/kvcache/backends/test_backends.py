"""Every decode backend against attention in float64, row by row, over a made-up step."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headmap.budgets import Ints
from headmap.kvcache.backends.base import DecodeBackend
from headmap.kvcache.backends.torch_ops import TorchBackend
from headmap.kvcache.backends.trial import Trial, make_trial
from headmap.kvcache.pool.pool import Pool
from headmap.kvcache.shape import CacheShape

CPU = torch.device("cpu")
LAYERS, SLIDING, WINDOW = 3, 1, 24


def backends() -> list[type[DecodeBackend]]:
    """Those of this machine: without a C++ compiler nothing decodes natively; what it cannot compile still fails."""
    native = import_module("headmap.kvcache.backends.native")
    try:
        native.compiled("float")
        return [TorchBackend, native.NativeBackend]
    except ImportError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return [TorchBackend]
        raise


BACKENDS = backends()
every_backend = pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)


def made_up(
    lengths: list[list[int]],
    generated: list[int],
    *,
    group: int = 3,
    head_dim: int = 32,
    page_tokens: int = 16,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Trial:
    """A step of sequences of which head h holds `lengths[i][h]` tokens of the prompt, in two layers of three.

    The layer between slides: its heads hold the last WINDOW tokens of the longest of these and of what was generated.
    """
    heads = len(lengths[0])
    shape = CacheShape(LAYERS, heads, head_dim, dtype.itemsize, WINDOW, (SLIDING,))
    pages = sum(2 * -(-n // page_tokens) for row in lengths for n in row)
    pages += sum(heads * (2 * -(-n // page_tokens) + WINDOW // page_tokens + 1) for n in generated)
    pool = Pool(
        shape, memory_bytes=(pages + 16) * page_tokens * shape.token_bytes, slots=len(lengths) + 1,
        max_tokens=max(generated) + 1, dtype=dtype, device=CPU, page_tokens=page_tokens,
    )  # fmt: skip
    return make_trial(pool, [parts(row) for row in lengths], generated, group, seed)


def parts(row: list[int]) -> Ints:
    tokens = np.array([row, row, row[::-1]])
    tokens[SLIDING] = max(row)
    return tokens


def misses(trial: Trial, layer_idx: int, output: torch.Tensor) -> list[float]:
    """By how much each sequence's answer is off beyond plain float32 attention, in which logits are whole too."""
    expected, found = trial.expected(layer_idx), []
    for index, slot in enumerate(trial.slots.tolist()):
        plain = torch.zeros_like(expected[index], dtype=torch.float32)
        for head in range(trial.pool.shape.num_kv_heads):
            keys, values = (held.float() for held in trial.pool.row(slot, layer_idx, head))
            logits = trial.queries[index, head].float() @ keys.T * trial.scaling
            plain[head] = logits.softmax(-1) @ values
        off = (plain - expected[index]).abs().max()
        found.append(float((output[index].double() - expected[index]).abs().max() - off))
    return found


@st.composite
def steps(draw: st.DrawFn) -> dict[str, Any]:
    heads = draw(st.integers(1, 3))
    count = draw(st.integers(1, 3))
    lengths = draw(
        st.lists(st.lists(st.integers(0, 150), min_size=heads, max_size=heads), min_size=count, max_size=count)
    )
    return {
        "lengths": lengths,
        "generated": draw(st.lists(st.integers(1, 70), min_size=count, max_size=count)),
        "group": draw(st.sampled_from([1, 2, 3, 5, 7, 8])),
        "head_dim": draw(st.sampled_from([16, 32, 64, 80, 96, 128])),
        "page_tokens": draw(st.sampled_from([16, 32])),
        "seed": draw(st.integers(0, 100)),
    }


@every_backend
@settings(max_examples=25, deadline=None)
@given(step=steps())
def test_a_step_is_attention_over_all_that_its_rows_hold(backend: type[DecodeBackend], step: dict[str, Any]) -> None:
    trial = made_up(**step)
    own = backend(trial.pool)
    for layer_idx in range(LAYERS):
        output = trial.run(own, layer_idx)
        assert output.shape == trial.queries.shape
        assert all(missed <= 1e-5 for missed in misses(trial, layer_idx, output))


@every_backend
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@settings(max_examples=12, deadline=None)
@given(step=steps())
def test_sixteen_bits_cost_no_more_than_the_rounding_of_the_answer(
    backend: type[DecodeBackend], dtype: torch.dtype, step: dict[str, Any]
) -> None:
    trial = made_up(**step, dtype=dtype)
    own = backend(trial.pool)
    for layer_idx in range(LAYERS):
        output, expected = trial.run(own, layer_idx), trial.expected(layer_idx)
        assert output.dtype == dtype
        rounding = torch.finfo(dtype).eps / 2  # of the answer to its nearest neighbour
        torch.testing.assert_close(output.double(), expected, atol=1e-5, rtol=1.01 * rounding)


@every_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_token_of_the_step_stands_in_the_pool(backend: type[DecodeBackend], dtype: torch.dtype) -> None:
    trial = made_up([[40, 0], [3, 70]], [17, 40], dtype=dtype)
    own, books = backend(trial.pool), trial.pool.books
    for layer_idx in range(LAYERS):
        before = {slot: [trial.pool.row(slot, layer_idx, head) for head in (0, 1)] for slot in trial.slots.tolist()}
        trial.run(own, layer_idx)
        tails = books.tails_of(layer_idx)
        for index, slot in enumerate(trial.slots.tolist()):
            for head in (0, 1):
                place = int(books.part(slot).tokens[layer_idx, head] + tails.write_at.host[slot])
                written = (trial.keys[index, head], trial.values[index, head])
                for now, was, token in zip(
                    trial.pool.row(slot, layer_idx, head), before[slot][head], written, strict=True
                ):
                    was[place] = token
                    assert torch.equal(now, was)


LENGTHS, GENERATED = [[40, 0, 5], [3, 70, 16], [33, 32, 31]], [17, 40, 1]


def run_at(trial: Trial, own: DecodeBackend, layer_idx: int, order: list[int]) -> torch.Tensor:
    """The step of the sequences `order`; -1 stands for the idle slot with queries of its own."""
    index = torch.tensor(order)
    slots = torch.where(index < 0, trial.pool.books.slots, trial.slots[index])
    taken = (tensor[index] for tensor in (trial.queries, trial.keys, trial.values))
    return own.attend(layer_idx, slots, *taken, trial.scaling)


@every_backend
@pytest.mark.parametrize("order", [[2, 0, 1], [1], [-1, 0, -1, 2, -1]])
def test_a_sequence_is_answered_alike_in_any_company(backend: type[DecodeBackend], order: list[int]) -> None:
    trial = made_up(LENGTHS, GENERATED)
    own = backend(trial.pool)
    for layer_idx in range(LAYERS):
        together = trial.run(own, layer_idx)
        output = run_at(trial, own, layer_idx, order)
        for found, index in zip(output, order, strict=True):
            if index >= 0:
                torch.testing.assert_close(found, together[index], atol=1e-6, rtol=1e-6)


@every_backend
def test_what_another_left_in_free_places_does_not_count(backend: type[DecodeBackend]) -> None:
    trial = made_up(LENGTHS, GENERATED)
    for held in (trial.pool.keys, trial.pool.values):
        held.nan_to_num_(nan=7.0)
    for layer_idx in range(LAYERS):
        assert all(missed <= 1e-5 for missed in misses(trial, layer_idx, trial.run(backend(trial.pool), layer_idx)))


@every_backend
def test_a_step_of_idle_slots_alone_ends(backend: type[DecodeBackend]) -> None:
    trial = made_up(LENGTHS, GENERATED)
    for layer_idx in range(LAYERS):
        assert run_at(trial, backend(trial.pool), layer_idx, [-1, -1]).shape[0] == 2


@every_backend
def test_tensors_may_lie_in_any_order(backend: type[DecodeBackend]) -> None:
    trial = made_up(LENGTHS, GENERATED)
    own = backend(trial.pool)
    strewn = [
        tensor.transpose(0, 1).contiguous().transpose(0, 1) for tensor in (trial.queries, trial.keys, trial.values)
    ]
    output = own.attend(0, trial.slots, *strewn, trial.scaling)
    torch.testing.assert_close(output, trial.run(own, 0))


@every_backend
def test_sequences_that_read_one_part_have_tails_of_their_own(backend: type[DecodeBackend]) -> None:
    trial = made_up([[40, 7]], [1])
    books, own = trial.pool.books, backend(trial.pool)
    fork = books.fork(int(trial.slots[0]), 1)
    books.tail.append(np.array([fork]), books.free)
    two = Trial(
        trial.pool, torch.tensor([fork, int(trial.slots[0])]), torch.randn(2, 2, 3, 32), torch.randn(2, 2, 32),
        torch.randn(2, 2, 32), trial.scaling,
    )  # fmt: skip
    assert all(missed <= 1e-5 for missed in misses(two, 0, two.run(own, 0)))
