"""A case, and the contract of a contender."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Self

import torch

from benchmarks.contenders.checkpoint import Checkpoint
from benchmarks.shapes import Shape


@dataclass(frozen=True)
class Case:
    """Prompts of equal length through one contender: prefill, then `settle` steps that do not count, then `steps`.

    model: random weights of a shape, prompted with random tokens, or a real model with its own prompt, for batch 1.
    budget: tokens a KV head keeps on average, for contenders that compress. graphs: decode steps as CUDA graphs, for
    ours; StaticCache is then compiled.
    """

    contender: str
    model: Shape | Checkpoint
    prompt_tokens: int
    batch: int = 1
    budget: int = 256
    settle: int = 2
    steps: int = 16
    device: str = "cpu"
    dtype: str = "float32"
    backend: str = "auto"
    graphs: bool = False

    @property
    def torch_dtype(self) -> torch.dtype:
        return getattr(torch, self.dtype)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        fields = json.loads(text)
        kind = Checkpoint if "folder" in fields["model"] else Shape
        return cls(**{**fields, "model": kind(**fields["model"])})


class Contender(ABC):
    """A cache of one batch. Tokens in, the next ones out, greedily; all tensors on the case's device."""

    @abstractmethod
    def prefill(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The prompts as `input_ids`, (batch, n) int64, and the tensors of the pictures of one alone in its batch.

        Returns the tokens that follow, (batch,).
        """

    @abstractmethod
    def step(self, tokens: torch.Tensor, position: int) -> torch.Tensor:
        """The last tokens, (batch,), all at `position`. Returns the next ones, (batch,)."""

    @property
    @abstractmethod
    def kv_bytes(self) -> int:
        """Bytes of the keys and values it holds, masked ones included."""
