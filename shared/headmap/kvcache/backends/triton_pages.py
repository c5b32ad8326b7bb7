"""Decode attention in Triton kernels over the pool's pages, for CUDA.

The kernels use flash decoding. Heads hold very different numbers of tokens, so a row is split over programs, and its
splits are combined by log-sum-exp. The rows' lengths change with every step, but a captured CUDA graph is fixed.
Therefore the grid is fixed: a constant number of programs share the tokens of the whole batch equally (stream-K, Osama
et al., PPoPP 2023). Each layer needs three launches: the first writes the step's tokens and counts tiles, the second
attends, and the third combines the segments of all rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch

from headmap.kvcache.backends.base import DecodeBackend
from headmap.kvcache.pool.pool import Pool

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
_MOST_HEAD_DIM = 256
_LEAST_SIDE = 16
"""The smallest side that `tl.dot` accepts."""
_MOST_TILE = 128
_TILE_BYTES = 16 * 1024
"""The size of a key tile and of a value tile. A program loads one of each while it processes the previous tile."""
_PROGRAM_BYTES = 44 * 1024
"""Shared memory of one program: a tile of keys, a tile of values, and the compiler's overhead."""
_MOST_PROGRAMS_PER_PROCESSOR = 3
"""The registers suffice for this number. The tiles being loaded hide the memory latency."""


@dataclass(frozen=True)
class _Workspace:
    """The buffers that the kernels of one layer pass to each other in a step.

    starts: (rows + 1,), share: (1,) int32. partial: (segments, g, head_dim), peaks, totals: (segments, g) float32.
    """

    starts: torch.Tensor
    share: torch.Tensor
    partial: torch.Tensor
    peaks: torch.Tensor
    totals: torch.Tensor


class TritonBackend(DecodeBackend):
    """The Triton backend. A step reads no value on the host and, after the first step, compiles nothing.

    Logits, sums and the segments' results are float32. Softmax weights multiply 16-bit values in two halves, the
    rounded weight and the rounding error, so that they have a precision of at least 16 bits. The splits of a row depend
    on the batch, so a row's last float32 bits may differ from a run with that row alone.

    split_tokens: the minimum number of tokens per program; large batches give each program more. programs: the number
    of programs, by default two or three per multiprocessor. tile_tokens: the number of tokens that are processed at
    once, a power of two, at least 16; the default depends on head_dim and dtype. warps: of each program. stages: of the
    pipeline that loads tiles while others are processed. `benchmarks/kernel_settings.py` compares them.

    The first step determines the number of query heads per KV head and allocates the permanent workspace
    (`workspace_bytes`). Therefore one step must run before a step is captured.
    """

    name = "triton"
    capturable = True

    def __init__(
        self,
        pool: Pool,
        *,
        split_tokens: int = 256,
        programs: int | None = None,
        tile_tokens: int | None = None,
        warps: int = 4,
        stages: int = 3,
    ) -> None:
        super().__init__(pool)
        self._kernels = _kernels()
        self._tile = tile_tokens or _tile_tokens(pool.shape.head_dim, pool.keys.element_size())
        self._least = max(1, split_tokens // self._tile)
        self._programs = programs or default_programs(pool.device)
        self._factors = self._kernels.factors(pool.keys.dtype)
        self._launch = {"num_warps": warps, "num_stages": stages}
        self._workspaces: dict[tuple[int, int], _Workspace] = {}

    @staticmethod
    def missing(pool: Pool) -> str | None:
        try:
            kernels = _kernels()
        except ImportError as error:
            return f"Triton cannot be imported: {error}"
        if pool.device.type != "cuda" and not kernels.interpreted():
            return f"it needs a CUDA device, the pool is on {pool.device.type}"
        if pool.device.type == "cuda" and torch.cuda.get_device_capability(pool.device) < (8, 0):
            return f"it needs compute capability 8.0, {torch.cuda.get_device_name(pool.device)} has less"
        if pool.keys.dtype not in _FLOATS:
            return f"it knows no {pool.keys.dtype}"
        if pool.shape.head_dim > _MOST_HEAD_DIM:
            return f"it takes a head_dim of at most {_MOST_HEAD_DIM}, this is {pool.shape.head_dim}"
        return None

    @staticmethod
    def workspace_bytes(sequences: int, num_kv_heads: int, group: int, head_dim: int, programs: int) -> int:
        """Bytes of the workspace for a pool of `sequences` slots, with `group` query heads per KV head.

        A segment ends at the end of a program's share or of a row, so there are fewer than programs + rows segments.
        The size does not depend on the number of tokens in the pool. It is 0.7 MB for 32 slots with 32 heads of 128
        dimensions on 132 multiprocessors.
        """
        rows = _power_of_two(sequences) * num_kv_heads
        return 4 * ((rows + 2) + (programs + rows) * group * (head_dim + 2))

    def attend(
        self,
        layer_idx: int,
        slots: torch.Tensor,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        pool, books, kernels = self.pool, self.pool.books, self._kernels
        tails = books.tails_of(layer_idx)
        sequences, heads, group, dim = queries.shape
        rows = sequences * heads
        queries, keys, values = queries.contiguous(), keys.contiguous(), values.contiguous()
        output = torch.empty_like(queries)
        work = self._workspace(sequences, group)
        held = (
            books.part_tokens.device, tails.tokens.device, tails.chunks.device, tails.chunk_pages.device,
            work.starts, work.share,
        )  # fmt: skip
        segments = (work.partial, work.peaks, work.totals)
        numbers = (
            layer_idx, sequences, books.slots + 1, tails.first_row(layer_idx), tails.rows, tails.chunks.device.shape[1],
        )  # fmt: skip
        sizes = {
            "HEADS": heads, "DIM": dim, "PAGE": pool.page_tokens, "TILE": self._tile, "WIDE_DIM": _side(dim),
        }  # fmt: skip
        kernels.begin[(rows + 1,)](
            slots, keys, values, pool.keys, pool.values, tails.write_at.device, *held, *numbers, **sizes,
            PROGRAMS=self._programs, LEAST=self._least,
        )  # fmt: skip
        kernels.attend[(self._programs,)](
            slots, queries, pool.keys, pool.values, books.part_pages.device, books.part_starts.device, *held, *segments,
            scaling, *numbers, **sizes, GROUP=group, WIDE_GROUP=_side(group), FACTORS=self._factors, **self._launch,
        )  # fmt: skip
        columns = -(-dim // kernels.COLUMNS_AT_ONCE.value)
        kernels.join[(rows * group, columns)](work.starts, work.share, *segments, output, GROUP=group, DIM=dim)
        return output

    def _workspace(self, sequences: int, group: int) -> _Workspace:
        """Return the workspace of all steps. It has room for the pool's slots, rounded up to a power of two."""
        most, shape, device = _power_of_two(max(sequences, self.pool.books.slots)), self.pool.shape, self.pool.device
        if (made := self._workspaces.get((most, group))) is None:
            rows = most * shape.num_kv_heads
            sums = (self._programs + rows, group)
            floats: dict[str, Any] = {"dtype": torch.float32, "device": device}
            made = self._workspaces[most, group] = _Workspace(
                torch.empty(rows + 1, dtype=torch.int32, device=device),
                torch.empty(1, dtype=torch.int32, device=device),
                torch.empty((*sums, shape.head_dim), **floats),
                torch.empty(sums, **floats),
                torch.empty(sums, **floats),
            )
        return made


def default_programs(device: torch.device) -> int:
    """The number of programs that can run at the same time, so that no program waits; a few in the interpreter."""
    if device.type != "cuda":
        return 4
    found = torch.cuda.get_device_properties(device)
    fit = found.shared_memory_per_multiprocessor // _PROGRAM_BYTES
    return found.multi_processor_count * min(max(1, fit), _MOST_PROGRAMS_PER_PROCESSOR)


def _tile_tokens(head_dim: int, itemsize: int) -> int:
    fit = _TILE_BYTES // (itemsize * _side(head_dim))
    return min(max(_LEAST_SIDE, fit), _MOST_TILE)


def _side(count: int) -> int:
    """The side of a matrix with room for `count`."""
    return max(_LEAST_SIDE, _power_of_two(count))


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()


def _kernels() -> ModuleType:
    """Import the kernels on demand, because a CPU build of torch does not include Triton."""
    from headmap.kvcache.backends import triton_kernels

    return triton_kernels
