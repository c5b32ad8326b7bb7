"""Whole requests: methods and peers x prompt lengths x batch sizes, each case in a process of its own, in turn."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Protocol, Self

import torch

from benchmarks.contenders.case import Case
from benchmarks.contenders.measure import KVPRESS, OURS, TRANSFORMERS
from benchmarks.environments import environment
from benchmarks.report import Recorder, fast_bfloat16, isa
from benchmarks.shapes import GQA, Shape

ROOT = Path(__file__).parents[2]
REQUIREMENTS = ROOT / "benchmarks" / "contenders" / "requirements.txt"
CASE_SECONDS = 3600


class Requests(Protocol):
    """What is measured, and how often."""

    @property
    def rounds(self) -> int:
        """Processes of each case."""

    @property
    def settings(self) -> dict[str, Any]: ...

    def cells(self) -> Iterator[list[Case]]:
        """Cases measured in turn: every contender with the same prompts."""


@dataclass(frozen=True)
class Grid:
    """Random weights. prompts: (tokens, batch), in this order; `rounds` processes of each contender a prompt.

    In float32 on a CPU a prompt of 32K takes a model of half a billion parameters half an hour, so lengths stop
    earlier; a CPU with AMX goes through all of them in bfloat16.
    """

    shape: Shape = GQA
    prompts: tuple[tuple[int, int], ...] = ((2048, 1), (4096, 1), (2048, 4), (8192, 1))
    contenders: tuple[str, ...] = (*OURS, *TRANSFORMERS, *KVPRESS)
    budget: int = 256
    steps: int = 32
    rounds: int = 1
    device: str = "cpu"
    dtype: str = "float32"

    @classmethod
    def of(cls, device: str, short: bool) -> Self:
        """The cells that a device gets through: a GPU up to 32K tokens."""
        if device.startswith("cuda"):
            prompts = (2048, 32_768) if short else (2048, 4096, 8192, 16_384, 32_768)
            cells = tuple((prompt, batch) for batch in (1, 8) for prompt in prompts)
            return cls(device=device, dtype="bfloat16", prompts=cells)
        dtype = "bfloat16" if fast_bfloat16() else "float32"
        if short:
            chosen = ("full", "sparsemm", *TRANSFORMERS, *KVPRESS)
            return cls(prompts=((1024, 1),), contenders=chosen, steps=16, dtype=dtype)
        return cls(prompts=(*cls.prompts, (16_384, 1), (32_768, 1)), dtype=dtype) if fast_bfloat16() else cls()

    @property
    def settings(self) -> dict[str, Any]:
        return asdict(self)

    def cells(self) -> Iterator[list[Case]]:
        for prompt_tokens, batch in self.prompts:
            yield [
                on_device(
                    Case(
                        contender, self.shape, prompt_tokens, batch, self.budget, steps=self.steps, device=self.device,
                        dtype=self.dtype,
                    )
                )
                for contender in self.contenders
            ]  # fmt: skip


def on_device(case: Case) -> Case:
    """The case with what a GPU has beside: our kernels, CUDA graphs, and steps until these are captured."""
    on_gpu = case.device.startswith("cuda")
    return replace(case, backend="triton", graphs=True, settle=16) if on_gpu else case


@dataclass
class Pythons:
    """The interpreter of each contender; kvpress' environment is made the first time it is asked for."""

    folder: Path = ROOT / ".peers"
    _kvpress: Path | str | None = field(default=None, init=False)

    def of(self, contender: str) -> Path | str:
        """The interpreter, or why there is none."""
        if contender not in KVPRESS:
            return Path(sys.executable)
        if self._kvpress is None:
            same_torch = f"torch=={torch.__version__.split('+')[0]}"
            try:
                self._kvpress = environment(self.folder / "kvpress", REQUIREMENTS, (same_torch,))
            except subprocess.CalledProcessError as error:
                self._kvpress = f"kvpress could not be installed: {error}"
        return self._kvpress


def measure(record: Recorder, requests: Requests, pythons: Pythons | None = None) -> None:
    """Record a row for each case, and record it again after every round."""
    pythons = pythons or Pythons()
    for cell in requests.cells():
        found: dict[Case, list[dict[str, Any]]] = {case: [] for case in cell}
        for number in range(requests.rounds):
            for case, results in found.items():
                python = pythons.of(case.contender)
                results.append(run_case(python, case) if isinstance(python, Path) else {"missing": python})
                row = {"what": "request", "shape": case.model.name, **_row(case, results)}
                line = f"{case.prompt_tokens:6} x {case.batch}  {case.contender:16} {_said(row)}"
                record.add(row, line if requests.rounds == 1 else f"{line}  round {number + 1}", case)


def run_case(python: Path, case: Case) -> dict[str, Any]:
    """The output of the case's process, or `missing`: the reason there is none."""
    paths = [str(ROOT)] if case.contender in KVPRESS else [str(ROOT / "shared"), str(ROOT)]
    given = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_WAIT_POLICY": "PASSIVE"}
    command = [str(python), "-m", "benchmarks.contenders", case.to_json()]
    try:
        ended = subprocess.run(command, env=given, capture_output=True, text=True, timeout=CASE_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return {"missing": f"took over {CASE_SECONDS} s"}
    if ended.returncode:
        return {"missing": (ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"])[-1]}
    return json.loads(ended.stdout.splitlines()[-1])


def _row(case: Case, found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "contender": case.contender, "prompt_tokens": case.prompt_tokens, "batch": case.batch, "budget": case.budget,
        "device": case.device, "dtype": case.dtype, "isa": isa(),
    }  # fmt: skip
    rounds = [one for one in found if "missing" not in one]
    if not rounds:
        return row | {"missing": found[-1]["missing"]}
    steps = [one for measured in rounds for one in measured["step_ms"]]
    low, _, high = quantiles(steps, n=4)
    return row | {
        "token_ms": median(steps), "token_ms_q1": low, "token_ms_q3": high,
        "first_token_ms": median(one["first_token_ms"] for one in rounds),
        "kv_bytes": rounds[-1]["kv_bytes"], "peak_bytes": max(one["peak_bytes"] for one in rounds),
        "before_bytes": min(one["before_bytes"] for one in rounds), "rounds": len(rounds),
        "tokens": rounds[-1]["tokens"], "weights_sum": rounds[-1]["weights_sum"], "versions": rounds[-1]["versions"],
    }  # fmt: skip


def _said(row: dict[str, Any]) -> str:
    if "missing" in row:
        return str(row["missing"])
    return (
        f"{row['token_ms']:7.1f} ms/token  first token {row['first_token_ms'] / 1e3:6.1f} s  "
        f"KV {row['kv_bytes'] / 2**20:7.1f} MiB  peak {row['peak_bytes'] / 2**20:7.0f} MiB"
    )
