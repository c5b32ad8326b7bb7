"""Choose the backend that serves a pool, by a trial on this machine.

Each candidate computes a synthetic step with the pool's shape. Its output is compared with float64, and its time is
measured. A candidate is imported only when it is tried, because a CPU build of torch does not include Triton.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from statistics import median
from time import perf_counter

import numpy as np
import torch

from headmap.device_errors import is_broken_device
from headmap.errors import DeviceFailed, Unavailable
from headmap.kvcache.backends.base import DecodeBackend
from headmap.kvcache.backends.trial import Trial, make_trial
from headmap.kvcache.pool.paging import Paging
from headmap.kvcache.pool.pool import Pool
from headmap.kvcache.shape import CacheShape

log = logging.getLogger(__name__)

AUTO = "auto"
BACKENDS = {"triton": "triton_pages:TritonBackend", "native": "native:NativeBackend", "torch": "torch_ops:TorchBackend"}

REPEATS = 5
ENOUGH_SECONDS = 0.05
_LONGEST = 512
_SEQUENCES = 4
_GENERATED = (40, 1, 33, 7)
_FLOAT32_BOUND = 1e-5

Find = Callable[[str], type[DecodeBackend]]


@dataclass(frozen=True)
class Tried:
    """The result of one candidate. error: see `worst_error`. milliseconds: one step. reason: why it cannot serve, or
    None.
    """

    name: str
    error: float | None = None
    milliseconds: float | None = None
    reason: str | None = None

    @property
    def right(self) -> bool:
        return self.reason is None


@dataclass(frozen=True)
class Choice:
    """The backends that were tried and the one that was chosen."""

    chosen: str
    tried: tuple[Tried, ...]

    @property
    def gain(self) -> float | None:
        """How many times faster the chosen backend is than the next correct one, or None if there is no other."""
        times = {one.name: one.milliseconds for one in self.tried if one.right and one.milliseconds is not None}
        own = times.pop(self.chosen, None)
        return min(times.values()) / own if own and times else None

    def __str__(self) -> str:
        said = [f"{one.name} {one.milliseconds:.2f} ms" for one in self.tried if one.milliseconds is not None]
        gain = [] if self.gain is None else [f"{self.gain:.1f} x as fast as the next"]
        left_out = [f"without {one.name}: {one.reason}" for one in self.tried if not one.right]
        return "; ".join([self.chosen, *gain, *([", ".join(said)] if said else []), *left_out])


def find_backend(name: str) -> type[DecodeBackend]:
    """Import a backend. Raises ValueError for an unknown name, and ImportError if its module does not load."""
    if name not in BACKENDS:
        raise ValueError(f"backend {name!r} is not one of {', '.join((AUTO, *BACKENDS))}")
    module, _, kind = BACKENDS[name].partition(":")
    return getattr(import_module(f"{__package__}.{module}"), kind)


def candidates(device: torch.device) -> tuple[str, ...]:
    """The candidates of "auto". Triton is a candidate on CUDA only; its CPU interpreter must be requested by name."""
    return tuple(name for name in BACKENDS if name != "triton" or device.type == "cuda")


def make_backend(name: str, pool: Pool, find: Find = find_backend) -> DecodeBackend:
    """Make the backend `name` without a trial. "auto" takes the first of `candidates` that can serve the pool.

    Raises ValueError for an unknown name and ImportError if the backend cannot serve this pool on this machine.
    """
    if name != AUTO:
        backend = find(name)
        if reason := backend.missing(pool):
            raise ImportError(f"{name}: {reason}")
        return backend(pool)
    for candidate in candidates(pool.device):
        try:
            return make_backend(candidate, pool, find)
        except ImportError as error:
            log.debug("decode backend %s: %s", candidate, error)
    raise ImportError("no decode backend can serve this pool")


def choose_backend(
    name: str,
    shape: CacheShape,
    *,
    dtype: torch.dtype,
    device: torch.device,
    group: int,
    find: Find = find_backend,
) -> Choice:
    """Try `name`, or all candidates with "auto", and choose the fastest correct one.

    `group`: query heads per KV head. Raises Unavailable if no candidate is correct; the error names the fault of each.
    Raises DeviceFailed if a candidate broke the device.
    """
    trial = standard_trial(shape, dtype=dtype, device=device, group=group)
    layers = range(trial.pool.shape.num_layers)
    expected = [trial.expected(layer_idx) for layer_idx in layers]
    names = candidates(device) if name == AUTO else (name,)
    tried = tuple(_try(one, trial, expected, find) for one in names)
    right = [one for one in tried if one.right]
    if not right:
        named = name != AUTO
        raise Unavailable("; ".join(str(one.reason) if named else f"{one.name}: {one.reason}" for one in tried))
    return Choice(min(right, key=lambda one: one.milliseconds or 0.0).name, tried)


def standard_trial(shape: CacheShape, *, dtype: torch.dtype, device: torch.device, group: int) -> Trial:
    """Make a trial in a small pool: four sequences with very unequal heads, one layer of each kind in the shape."""
    kinds = [bool(shape.budgeted_layers), bool(shape.sliding_layers)]
    small = replace(shape, num_layers=sum(kinds), sliding_layers=(int(kinds[0]),) if kinds[1] else ())
    parts = []
    for sequence in range(_SEQUENCES):
        heads = np.arange(shape.num_kv_heads) + sequence
        tokens = np.repeat((_LONGEST // (1 + heads % 8 * 2))[None], small.num_layers, axis=0)
        tokens[list(small.sliding_layers)] = _LONGEST  # prompt tokens of a sliding layer, the same for all heads
        parts.append(tokens)
    paging = Paging(small)
    full = paging.full(_LONGEST + max(_GENERATED))
    pool = Pool(
        small,
        memory_bytes=_SEQUENCES * full * paging.page_bytes,
        slots=_SEQUENCES,
        max_tokens=_LONGEST,
        dtype=dtype,
        device=device,
    )
    return make_trial(pool, parts, _GENERATED, group)


def error_bound(dtype: torch.dtype) -> float:
    """The limit for `worst_error`: the error from truncating, rather than rounding, at the dtype's last bit."""
    return max(torch.finfo(dtype).eps, _FLOAT32_BOUND)


def worst_error(output: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest relative error of a head's output (..., head_dim), by the Euclidean norm."""
    distance = (output.double() - expected).norm(dim=-1) / expected.norm(dim=-1)
    return float(distance.nan_to_num(torch.inf).max())


def step_milliseconds(run: Callable[[], object], device: torch.device, repeats: int = REPEATS) -> float:
    """The median time of several runs after one warm-up. A slow step gets fewer runs."""
    seconds: list[float] = []
    while len(seconds) < 2 or (len(seconds) <= repeats and sum(seconds) < ENOUGH_SECONDS):
        _wait(device)
        started = perf_counter()
        run()
        _wait(device)
        seconds.append(perf_counter() - started)
    return median(seconds[1:]) * 1e3


def _try(name: str, trial: Trial, expected: Sequence[torch.Tensor], find: Find) -> Tried:
    pool = trial.pool
    try:
        backend = make_backend(name, pool, find)
        errors = []
        for layer_idx, right in enumerate(expected):
            trial.forget(layer_idx)
            errors.append(worst_error(trial.run(backend, layer_idx), right))
        worst, bound = max(errors), error_bound(pool.keys.dtype)
        if worst > bound:
            what = f"wrong by {worst:.1e}, at most {bound:.1e} is right" if worst < torch.inf else "not a number"
            return Tried(name, worst if worst < torch.inf else None, reason=what)
        time = sum(step_milliseconds(partial(trial.run, backend, layer), pool.device) for layer in range(len(expected)))
        return Tried(name, worst, time)
    except ImportError as error:
        return Tried(name, reason=str(error).removeprefix(f"{name}: "))
    except Exception as error:
        if is_broken_device(error):
            raise DeviceFailed(f"decode backend {name} broke {pool.device} on a made-up step") from error
        log.debug("decode backend %s", name, exc_info=True)
        return Tried(name, reason=failure(error))


def failure(error: Exception) -> str:
    """Describe the failure in one line."""
    return f"it fails: {type(error).__name__}: {str(error).partition(chr(10))[0]}"


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
