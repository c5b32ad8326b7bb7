"""Compiles decode steps for a GPU that need not be there, and prints what was compiled; `test_triton.py` runs it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from headmap.kvcache.backends import triton_kernels
from headmap.kvcache.backends.triton_pages import TritonBackend
from headmap.kvcache.pool.pool import Pool
from headmap.kvcache.shape import CacheShape

KERNELS = ("begin", "attend", "join")
HEADS, GROUP, DIM = 4, 7, 128


class AbsentGPU:
    """What Triton asks of a device before it compiles."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


class Warming:
    """Stands for the kernels: a launch compiles if it must, and runs nothing."""

    COLUMNS_AT_ONCE = triton_kernels.COLUMNS_AT_ONCE

    def __init__(self) -> None:
        self.compiled: dict[str, list[Any]] = {name: [] for name in KERNELS}

    def __getattr__(self, name: str) -> Any:
        warming = self

        class Kernel:
            def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
                def launch(*args: Any, **options: Any) -> None:
                    kernel = getattr(triton_kernels, name).warmup(*args, grid=grid, **options)
                    if not any(kernel is known for known in warming.compiled[name]):
                        warming.compiled[name].append(kernel)

                return launch

        return Kernel()


def main() -> None:
    driver.set_active(AbsentGPU())
    shape = CacheShape(3, HEADS, DIM, 2, window=20, sliding_layers=(1,))
    pool = Pool(shape, memory_bytes=2**24, slots=4, max_tokens=200, dtype=torch.bfloat16, device=torch.device("cpu"))
    missing, backend, kernels = TritonBackend.missing(pool), TritonBackend(pool), Warming()
    backend._kernels = kernels  # type: ignore[assignment]
    for layer_idx, sequences, offset in ((0, 1, 0), (1, 1, 0), (2, 1, 1), (0, 3, 1), (1, 16, 3)):

        def some(*sizes: int, offset: int = offset) -> torch.Tensor:
            return torch.zeros(offset + torch.Size(sizes).numel(), dtype=torch.bfloat16)[offset:].view(sizes)

        slots = torch.full((sequences + 1,), pool.books.slots)[1:]
        keys, values = some(sequences, HEADS, DIM), some(sequences, HEADS, DIM)
        backend.attend(layer_idx, slots, some(sequences, HEADS, GROUP, DIM), keys, values, DIM**-0.5)
    (attend,) = kernels.compiled["attend"]
    copies = [line for line in attend.asm["ptx"].splitlines() if "cp.async.cg.shared.global" in line]
    told = {
        "missing": missing,
        "compiled": {name: len(found) for name, found in kernels.compiled.items()},
        "wide_loads": bool(copies) and all("0x10" in line for line in copies),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
