"""A cache with a size per head for `model.generate` of transformers, without a server.

use_headmap_attention(model)
cache = GenerateCache(model, KVRequest("sparsemm", ratio=0.2), scores)
output = model.generate(**inputs, **with_cache(model, cache))
"""

from __future__ import annotations

from typing import NoReturn

import torch
from transformers import PretrainedConfig, PreTrainedModel

from headmap.head_scores import HeadScores
from headmap.kvcache.plan import KeepPlan, KVRequest
from headmap.kvcache.planning import plan_cache
from headmap.kvcache.shape import CacheShape
from headmap.kvcache.transformers.attention import LayerAttention
from headmap.kvcache.transformers.cache import RaggedCache
from headmap.kvcache.transformers.decode import DecodeCache
from headmap.kvcache.transformers.prefill import PrefillCache, Prompt


class GenerateCache:
    """The cache of one sequence. It compresses the prompt once, then takes one token per step.

    One cache serves one call of `generate` with one prompt. Text-only models work too. `model` must use our attention
    (`use_headmap_attention`). `scores`: the model's head scores, for methods that need them. `spans`: (start,
    end) of the pictures in the prompt, for models whose picture tokens see each other in both directions (Gemma 3);
    take them from `PreparedPrompt.spans`. `max_new_tokens`: the maximum number of generated tokens.

    The cache allocates memory when the prompt arrives. At this point it raises the errors of `plan_cache`. Later it
    raises OutOfMemory beyond `max_new_tokens`. It raises ValueError, with the feature's name, for what it does not
    serve: batches (beam search, several sequences), left padding, assisted decoding, prompt lookup, attention weights,
    and `use_cache=False`. The constructor raises ValueError for a model that the cache does not support.
    """

    is_compileable = False

    def __init__(
        self,
        model: PreTrainedModel,
        kv: KVRequest,
        scores: HeadScores | None = None,
        spans: tuple[tuple[int, int], ...] = (),
        max_new_tokens: int = 1024,
    ) -> None:
        self.shape = cache_shape(model)
        self.plan: KeepPlan | None = None
        self._kv, self._scores, self._spans, self._max_new_tokens = kv, scores, spans, max_new_tokens
        self._dtype, self._device = model.dtype, model.device
        self._ragged: RaggedCache | None = None
        self._seen = 0
        self._now: PrefillCache | DecodeCache | None = None

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[LayerAttention, LayerAttention]:
        if len(keys) != 1:
            raise ValueError(
                f"GenerateCache holds one sequence, got a batch of {len(keys)}: batches, beam search and "
                "num_return_sequences are not served"
            )
        if layer_idx == 0:
            self._now = self._begin(keys.shape[2])
        if self._now is None:
            raise ValueError("the first layer must come first")
        attention, held = self._now.update(keys, values, layer_idx)
        if layer_idx == 0 and isinstance(self._now, PrefillCache):
            return _Unpadded(attention), held
        return attention, held

    def _begin(self, tokens: int) -> PrefillCache | DecodeCache:
        self._seen += tokens
        if self._ragged is None:
            self.plan = plan_cache(self._kv, self.shape, tokens, self._scores)
            self._ragged = RaggedCache.for_plans(
                [self.plan], self._max_new_tokens, self.shape, dtype=self._dtype, device=self._device
            )
            slot = self._ragged.admit(self.plan, self._max_new_tokens)
            return self._ragged.prefill([Prompt(slot, self.plan, self._spans)])
        if tokens != 1:
            raise ValueError(
                f"a compressed prompt cannot be followed by {tokens} tokens at once: a second prompt, use_cache=False, "
                "assisted decoding and prompt lookup are not served"
            )
        if isinstance(self._now, PrefillCache):
            self._now.done()
        return self._ragged.step_for_good([0])

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """The number of tokens received. It includes evicted tokens, because positions count them."""
        return self._seen

    @property
    def is_linear(self) -> list[bool]:
        """Whether each layer has linear attention, which `generate` asks for. No layer has it."""
        return [False] * self.shape.num_layers

    def activate_past_recording(self, *_: object, **__: object) -> NoReturn:
        """Raise ValueError. Assisted decoding and prompt lookup call this before they guess tokens."""
        raise ValueError("assisted decoding and prompt lookup are not served: the cache cannot take tokens back")

    crop = activate_past_recording

    def reorder_cache(self, *_: object, **__: object) -> NoReturn:
        """Raise ValueError. Beam search calls this."""
        raise ValueError("beam search is not served: GenerateCache holds one sequence")

    batch_repeat_interleave = batch_select_indices = reorder_cache

    @property
    def kept_tokens(self) -> int:
        """The number of tokens held now, over all layers and KV heads."""
        return self._ragged.tokens(0) if self._ragged is not None else 0

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values held now. Their pages round up to 16 tokens per head."""
        return self.kept_tokens * self.shape.token_bytes


class _Unpadded(LayerAttention):
    """Attention of a prompt's first layer, which refuses padding.

    A model does not hand its attention mask on to us. But transformers gives all tokens of left padding the position
    of the first real token, and no other two tokens share a position.
    """

    def __init__(self, inner: LayerAttention) -> None:
        self._inner, self.window = inner, inner.window

    def check_positions(self, position_ids: torch.Tensor | None) -> None:
        if position_ids is None or position_ids.shape[-1] < 2:
            return
        if bool((position_ids[..., 0] == position_ids[..., 1]).all()):
            raise ValueError("left padding is not served: pass the prompt's own tokens alone")

    def attend(self, queries: torch.Tensor, scaling: float) -> torch.Tensor:
        return self._inner.attend(queries, scaling)


def cache_shape(model: PreTrainedModel) -> CacheShape:
    """Return the shape of `model`'s KV cache, from its text configuration.

    Raises ValueError for layers without full or sliding attention and for bidirectional text attention, because the
    cache does not support them.
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
    """Layers with a sliding window: the listed layers, or all if the configuration only gives a window (Mistral)."""
    if getattr(text, "sliding_window", None) is None:
        return ()
    kinds = getattr(text, "layer_types", None) or ["sliding_attention"] * text.num_hidden_layers
    unknown = set(kinds) - {"full_attention", "sliding_attention"}
    if unknown:
        raise ValueError(f"layers of type {', '.join(sorted(unknown))} are not served")
    return tuple(index for index, kind in enumerate(kinds) if kind == "sliding_attention")
