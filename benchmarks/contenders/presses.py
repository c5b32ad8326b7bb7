"""kvpress' SnapKV and AdaKV at the same average budget. AdaKV only masks there: no memory is freed."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from kvpress import AdaKVPress, SnapKVPress
from transformers import DynamicCache, PreTrainedModel

from benchmarks.contenders.case import Case, Contender
from benchmarks.contenders.transformers_caches import TransformersCache

WINDOW = 32


class Pressed(TransformersCache):
    def __init__(self, model: PreTrainedModel, press: SnapKVPress | AdaKVPress) -> None:
        super().__init__(model, DynamicCache())
        self._press = press

    def prefill(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        with self._press(self._model):
            return super().prefill(inputs)


def snapkv(model: PreTrainedModel, case: Case) -> Contender:
    return Pressed(model, _snapkv(case))


def adakv(model: PreTrainedModel, case: Case) -> Contender:
    return Pressed(model, AdaKVPress(_snapkv(case)))


def _snapkv(case: Case) -> SnapKVPress:
    left_out = max(0.0, 1 - case.budget / case.prompt_tokens)
    return SnapKVPress(compression_ratio=left_out, window_size=WINDOW, kernel_size=5)
