"""A head-wise cache for transformers' own `model.generate`, without any of our servers.

use_headmap_attention(model)
cache = GenerateCache(model, KVRequest("sparsemm", ratio=0.2), scores)
output = model.generate(**inputs, **with_cache(model, cache))
"""

from __future__ import annotations

import torch
from transformers import PretrainedConfig, PreTrainedModel

from headmap.head_scores import HeadScores
from headmap.kvcache.plan import KeepPlan, KVRequest
from headmap.kvcache.planning import plan_cache
from headmap.kvcache.shape import CacheShape
from headmap.kvcache.transformers.attention import LayerAttention
from headmap.kvcache.transformers.cache import DecodeCache, RaggedCache


class GenerateCache:
    """The cache of one sequence: compresses the prompt once, then grows by a token a step.

    One cache serves one call of `generate` with one prompt (no beams, no batch). Raises the errors of `plan_cache` when
    the prompt arrives, and ValueError for a batch or a second prompt. `spans` are `PreparedPrompt.spans`, for models
    whose pictures see themselves in both directions (Gemma 3).
    """

    is_compileable = False

    def __init__(
        self,
        model: PreTrainedModel,
        kv: KVRequest,
        scores: HeadScores | None = None,
        spans: tuple[tuple[int, int], ...] = (),
    ) -> None:
        self.shape = cache_shape(model)
        self.plan: KeepPlan | None = None
        self._kv, self._scores, self._spans = kv, scores, spans
        self._ragged = RaggedCache(self.shape, dtype=model.dtype, device=model.device)
        self._seen = 0
        self._step: DecodeCache | None = None

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[LayerAttention, LayerAttention]:
        if len(keys) != 1:
            raise ValueError(f"GenerateCache holds one sequence, got a batch of {len(keys)}")
        if layer_idx == 0:
            self._begin(keys.shape[2])
        if self._step is not None:
            return self._step.update(keys, values, layer_idx)
        if self.plan is None:
            raise ValueError("the first layer must come first")
        return self._ragged.prefill(0, self.plan, spans=self._spans).update(keys, values, layer_idx)

    def _begin(self, tokens: int) -> None:
        if self.plan is None:
            self.plan = plan_cache(self._kv, self.shape, tokens, self._scores)
            self._ragged.admit(self._ragged.reservation(self.plan, 0))
        elif tokens == 1:
            self._step = self._ragged.decode([0])
        else:
            raise ValueError(f"a compressed prompt cannot be followed by {tokens} tokens at once")
        self._seen += tokens

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens seen, evicted ones included: positions go on counting."""
        return self._seen

    @property
    def is_linear(self) -> list[bool]:
        """For each layer whether it has linear attention, as `generate` asks: none has."""
        return [False] * self.shape.num_layers

    @property
    def kept_tokens(self) -> int:
        """Tokens held now, over all layers and KV heads."""
        return self._ragged.tokens(0) if self.plan is not None else 0

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values held now."""
        return self.kept_tokens * self.shape.token_bytes


def cache_shape(model: PreTrainedModel) -> CacheShape:
    """The shape of `model`'s KV cache, from its text configuration.

    Raises ValueError for layers that are neither full nor sliding attention, and for texts read in both directions:
    they have no such cache.
    """
    text = model.config.get_text_config()
    if getattr(text, "use_bidirectional_attention", None) is True:
        raise ValueError("a text model that attends in both directions does not generate")
    heads = text.num_attention_heads
    sliding = _sliding_layers(text)
    return CacheShape(
        num_layers=text.num_hidden_layers,
        num_kv_heads=getattr(text, "num_key_value_heads", None) or heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
        itemsize=model.dtype.itemsize,
        window=int(text.sliding_window) if sliding else None,
        sliding_layers=sliding,
    )


def _sliding_layers(text: PretrainedConfig) -> tuple[int, ...]:
    """Layers with a sliding window: as the configuration lists them, or all where it only has a window (Mistral)."""
    if getattr(text, "sliding_window", None) is None:
        return ()
    kinds = getattr(text, "layer_types", None) or ["sliding_attention"] * text.num_hidden_layers
    unknown = set(kinds) - {"full_attention", "sliding_attention"}
    if unknown:
        raise ValueError(f"layers of type {', '.join(sorted(unknown))} are not served")
    return tuple(index for index, kind in enumerate(kinds) if kind == "sliding_attention")
