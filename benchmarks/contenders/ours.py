"""Every method on the ragged cache: prompts one after the other, then all decoded at once, as the engine does."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from benchmarks.contenders.case import Case, Contender
from benchmarks.skew import published_skew
from headmap.engine.graphs import Capture, GraphedDecoder, capture_on_cuda
from headmap.kvcache.backends import get_backend
from headmap.kvcache.methods import get_method
from headmap.kvcache.plan import KeepPlan, KVRequest
from headmap.kvcache.planning import plan_cache
from headmap.kvcache.transformers.attention import ATTENTION, use_headmap_attention, with_cache
from headmap.kvcache.transformers.cache import DecodeCache, RaggedCache
from headmap.kvcache.transformers.generate import cache_shape


class Ours(Contender):
    def __init__(self, model: PreTrainedModel, case: Case, capture: Capture | None) -> None:
        use_headmap_attention(model)
        model.set_attn_implementation(ATTENTION)  # a text model without pictures has no text_config
        self._model, self._new_tokens = model, case.settle + case.steps
        self._plan = plan_of(model, case)
        attend = get_backend(case.backend, model.device)
        self._cache = RaggedCache(cache_shape(model), dtype=model.dtype, device=model.device, attend=attend)
        self._graphed = GraphedDecoder(self._forward, self._cache, capture) if capture else None
        self._slots: list[int] = []

    def prefill(self, tokens: torch.Tensor) -> torch.Tensor:
        positions = torch.arange(tokens.shape[1], device=tokens.device)[None]
        last = []
        for prompt in tokens:
            slot = self._cache.admit(self._cache.reservation(self._plan, self._new_tokens))
            view = self._cache.prefill(slot, self._plan)
            output = self._model.model(
                input_ids=prompt[None], position_ids=positions, use_cache=True, **with_cache(self._model.model, view)
            )
            last.append(output.last_hidden_state[0, -1])
            self._slots.append(slot)
        return self._model.lm_head(torch.stack(last)).argmax(-1)

    def step(self, tokens: torch.Tensor, position: int) -> torch.Tensor:
        if self._graphed is not None:
            return self._graphed.step(self._slots, tokens.tolist(), [position] * len(tokens)).argmax(-1)
        positions = torch.full((len(tokens),), position, device=tokens.device)
        return self._forward(tokens[:, None], positions, self._cache.decode(self._slots)).argmax(-1)

    def _forward(self, tokens: torch.Tensor, positions: torch.Tensor, cache: DecodeCache) -> torch.Tensor:
        output = self._model.model(
            input_ids=tokens, position_ids=positions[:, None], use_cache=True, **with_cache(self._model.model, cache)
        )
        return self._model.lm_head(output.last_hidden_state[:, -1])

    @property
    def kv_bytes(self) -> int:
        return sum(self._cache.tokens(slot) for slot in self._slots) * self._cache.shape.token_bytes


def ours(model: PreTrainedModel, case: Case) -> Contender:
    return Ours(model, case, capture_on_cuda if case.graphs else None)


def plan_of(model: PreTrainedModel, case: Case) -> KeepPlan:
    """What the case's method keeps of a prompt, with a map as concentrated as the published one."""
    shape = cache_shape(model)
    scores = published_skew(shape.num_layers, model.config.num_attention_heads, shape.num_kv_heads)
    method = get_method(case.contender)
    request = KVRequest(case.contender, budget=case.budget if method.needs_budget else None)
    return plan_cache(request, shape, case.prompt_tokens, scores)
