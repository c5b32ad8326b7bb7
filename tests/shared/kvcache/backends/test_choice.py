"""Backends are tried before one serves: wrong ones and those that fail are left out, of the others the fastest wins."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from headmap.errors import DeviceFailed, Unavailable
from headmap.kvcache.backends import choice
from headmap.kvcache.backends.base import DecodeBackend
from headmap.kvcache.backends.choice import Choice, Tried, choose_backend
from headmap.kvcache.backends.torch_ops import TorchBackend
from headmap.kvcache.pool.pool import Pool
from headmap.kvcache.shape import CacheShape

CPU = torch.device("cpu")
FULL = CacheShape(4, 2, 16, 4)
SLIDING = CacheShape(4, 2, 16, 4, window=40, sliding_layers=(1, 3))


class Slow(TorchBackend):
    def attend(self, *args, **kwargs) -> torch.Tensor:
        time.sleep(0.05)
        return super().attend(*args, **kwargs)


class WrongInOneHead(TorchBackend):
    """As a kernel that loses the last page of one row."""

    def attend(self, *args, **kwargs) -> torch.Tensor:
        output = super().attend(*args, **kwargs)
        output[2, 1] *= 0.9
        return output


class WrongWhereLayersSlide(TorchBackend):
    def attend(self, layer_idx: int, *args, **kwargs) -> torch.Tensor:
        output = super().attend(layer_idx, *args, **kwargs)
        return output * 1.1 if layer_idx in self.pool.shape.sliding_layers else output


class Reader(TorchBackend):
    """Does not write the step's own token: where one ran before, it lies there."""

    def _write(self, *args) -> None:
        pass


class Failing(TorchBackend):
    def attend(self, *args, **kwargs) -> torch.Tensor:
        raise RuntimeError("out of registers\nand more words")


class Breaking(TorchBackend):
    def attend(self, *args, **kwargs) -> torch.Tensor:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")


class Elsewhere(TorchBackend):
    @staticmethod
    def missing(pool: Pool) -> str | None:
        return "it needs another machine"


def choose(
    native: type[DecodeBackend],
    name: str = "auto",
    shape: CacheShape = FULL,
    dtype: torch.dtype = torch.float32,
    fallback: type[DecodeBackend] = TorchBackend,
) -> Choice:
    found = {"native": native, "torch": fallback}
    return choose_backend(name, shape, dtype=dtype, device=CPU, group=2, find=found.__getitem__)


def of(made: Choice, name: str) -> Tried:
    return next(one for one in made.tried if one.name == name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [FULL, SLIDING])
def test_the_fastest_that_is_right_is_chosen(shape: CacheShape, dtype: torch.dtype) -> None:
    made = choose(Slow, shape=shape, dtype=dtype)
    assert made.chosen == "torch"
    assert all(one.right and one.error is not None and one.error < choice.error_bound(dtype) for one in made.tried)
    assert made.gain is not None
    assert made.gain > 1
    assert str(made).startswith(f"torch; {made.gain:.1f} x as fast as the next; native ")


@pytest.mark.parametrize(
    ("backend", "shape", "reason"),
    [
        (WrongInOneHead, FULL, "wrong by 1.0e-01, at most 1.0e-05 is right"),
        (WrongWhereLayersSlide, SLIDING, "wrong by 1.0e-01, at most 1.0e-05 is right"),
        (Reader, FULL, "not a number"),
        (Reader, SLIDING, "not a number"),
        (Failing, FULL, "it fails: RuntimeError: out of registers"),
        (Elsewhere, FULL, "it needs another machine"),
    ],
)
def test_one_that_is_wrong_or_fails_is_left_out_and_says_why(
    backend: type[DecodeBackend], shape: CacheShape, reason: str
) -> None:
    made = choose(backend, shape=shape, fallback=Slow)
    assert made.chosen == "torch"
    assert (of(made, "native").right, of(made, "native").reason) == (False, reason)
    assert f"without native: {reason}" in str(made)
    with pytest.raises(Unavailable, match=reason):
        choose(backend, "native", shape)


def test_one_percent_is_wrong_in_sixteen_bits_too() -> None:
    class Rounded(TorchBackend):
        """As far off as with logits of 8 bits."""

        def attend(self, *args, **kwargs) -> torch.Tensor:
            output = super().attend(*args, **kwargs)
            return output + output.norm(dim=-1, keepdim=True) * 0.01 * torch.randn_like(output) / 4

    assert not of(choose(Rounded, dtype=torch.bfloat16), "native").right


def test_where_none_is_right_all_are_named() -> None:
    with pytest.raises(Unavailable, match=r"native: it fails.*; torch: wrong by"):
        choose(Failing, fallback=WrongInOneHead)


def test_one_that_breaks_the_device_ends_the_search() -> None:
    with pytest.raises(DeviceFailed, match="native"):
        choose(Breaking)


def test_an_unknown_name_is_told_with_those_that_are() -> None:
    with pytest.raises(Unavailable, match="'cuda' is not one of auto, triton, native, torch"):
        choose_backend("cuda", FULL, dtype=torch.float32, device=CPU, group=2)


def test_the_trial_takes_a_small_pool_of_its_own_whatever_the_shape() -> None:
    large = CacheShape(80, 8, 128, 2)
    pool = choice.standard_trial(large, dtype=torch.bfloat16, device=CPU, group=8).pool
    assert pool.shape.num_layers == 1
    assert pool.capacity_bytes < 2**25
    held = pool.books.part_tokens.host[0, : pool.books.slots]
    assert held.max() > 8 * held.min()  # heads are as unequal as budgets make them
    assert np.unique(pool.books.tail.tokens.host[: pool.books.slots]).size == pool.books.slots
