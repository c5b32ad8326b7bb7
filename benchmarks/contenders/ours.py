"""Every method on the ragged cache: prompts one after the other, then all decoded at once, as the engine's runner does.

The steps are those of `headmap.engine.runner.ModelRunner`, which takes whole multimodal models; most cases have text
alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import PreTrainedModel

from benchmarks.contenders.case import Case, Contender
from benchmarks.contenders.checkpoint import Checkpoint
from benchmarks.skew import published_skew
from headmap.engine.graphs import Capture, CudaCapture, GraphedDecoder
from headmap.families.loading import load_model
from headmap.head_scores import HeadScores
from headmap.kvcache.methods import get_method
from headmap.kvcache.plan import KeepPlan, KVRequest
from headmap.kvcache.planning import plan_cache
from headmap.kvcache.transformers.attention import use_headmap_attention, with_cache
from headmap.kvcache.transformers.cache import RaggedCache
from headmap.kvcache.transformers.decode import DecodeCache
from headmap.kvcache.transformers.generate import cache_shape
from headmap.kvcache.transformers.prefill import Prompt
from headmap.models import read_model


class Ours(Contender):
    def __init__(self, model: PreTrainedModel, case: Case, capture: Capture | None) -> None:
        use_headmap_attention(model)
        self._model, self._plan = model, plan_of(model, case)
        self._cache = RaggedCache.for_plans(
            [self._plan] * case.batch, case.settle + case.steps, cache_shape(model), dtype=model.dtype,
            device=model.device, backend=case.backend,
        )  # fmt: skip
        self._graphed = GraphedDecoder(self._forward, self._cache.backend, capture) if capture else None
        self._slots: list[int] = []

    def prefill(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        tokens = inputs["input_ids"]
        pictures = {name: tensor for name, tensor in inputs.items() if name != "input_ids"}
        positions = torch.arange(tokens.shape[1], device=tokens.device)[None]
        last = []
        for prompt in tokens:
            slot = self._cache.admit(self._plan)
            view = self._cache.prefill([Prompt(slot, self._plan)])
            output = self._model.model(
                input_ids=prompt[None], **pictures, position_ids=positions, use_cache=True,
                **with_cache(self._model.model, view),
            )  # fmt: skip
            view.done()
            last.append(output.last_hidden_state[0, -1])
            self._slots.append(slot)
        return self._model.lm_head(torch.stack(last)).argmax(-1)

    def step(self, tokens: torch.Tensor, position: int) -> torch.Tensor:
        positions = torch.full((len(tokens),), position, device=tokens.device)
        with self._cache.step(self._slots) as step:
            if self._graphed is not None:
                return self._graphed.step(step, tokens[:, None], positions).argmax(-1)
            return self._forward(tokens[:, None], positions, step).argmax(-1)

    def _forward(self, tokens: torch.Tensor, positions: torch.Tensor, cache: DecodeCache) -> torch.Tensor:
        output = self._model.model(
            input_ids=tokens, position_ids=positions[:, None], use_cache=True, **with_cache(self._model.model, cache)
        )
        return self._model.lm_head(output.last_hidden_state[:, -1]).float()

    @property
    def kv_bytes(self) -> int:
        """Bytes of the held pages: the last page of a row may not be full."""
        return self._cache.pool.held_bytes


def ours(model: PreTrainedModel, case: Case) -> Contender:
    return Ours(model, case, CudaCapture() if case.graphs else None)


def load(checkpoint: Checkpoint, case: Case) -> PreTrainedModel:
    """The model as the engine runs it."""
    info = read_model(checkpoint.name, Path(checkpoint.folder))
    return load_model(info, device=case.device, dtype=case.dtype).model


def plan_of(model: PreTrainedModel, case: Case) -> KeepPlan:
    """The plan of the case's method for a prompt. Random weights have a map as concentrated as the published one."""
    shape = cache_shape(model)
    if isinstance(case.model, Checkpoint):
        scores = HeadScores(case.model.head_scores().numpy(), shape.num_kv_heads)
    else:
        scores = published_skew(shape.num_layers, model.config.num_attention_heads, shape.num_kv_heads)
    method = get_method(case.contender)
    request = KVRequest(case.contender, budget=case.budget if method.needs_budget else None)
    return plan_cache(request, shape, case.prompt_tokens, scores)
