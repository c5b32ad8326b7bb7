"""Run a model on the ragged cache: one prompt at a time in, one token of every running sequence out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from headmap.device_errors import told_as_out_of_memory
from headmap.engine.graphs import Capture, GraphedDecoder
from headmap.families.base import PreparedPrompt
from headmap.families.loading import LoadedModel
from headmap.kvcache.plan import KeepPlan
from headmap.kvcache.transformers.attention import with_cache
from headmap.kvcache.transformers.cache import DecodeCache, RaggedCache
from headmap.kvcache.transformers.head_masks import HeadMask
from headmap.kvcache.transformers.watch import KeptTokens


class ModelRunner:
    """Touches tensors and decides nothing: who runs, and with which budget, is settled by the caller."""

    def __init__(
        self, loaded: LoadedModel, cache: RaggedCache, mask: HeadMask | None = None, capture: Capture | None = None
    ) -> None:
        self.loaded = loaded
        self.cache = cache
        self._mask = mask or HeadMask(())
        self.graphed = GraphedDecoder(self._forward, cache, capture) if capture else None

    @torch.inference_mode()
    def prefill(
        self,
        slot: int,
        plan: KeepPlan,
        prompt: PreparedPrompt,
        on_layer: Callable[[], None] | None = None,
        watch: KeptTokens | None = None,
    ) -> torch.Tensor:
        """Run a whole prompt, keeping what `plan` says. Returns the next token's logits, (vocab,) float32.

        `on_layer` is called before each layer of what sees the pictures, and before each text layer's attention; it may
        decode other sequences. `watch` learns what one head keeps.
        """
        model, device = self.loaded.model, self.loaded.device
        inputs = {
            key: value.to(device, model.dtype) if value.is_floating_point() else value.to(device)
            for key, value in prompt.inputs.items()
        }
        cache = self.cache.prefill(slot, plan, on_layer, prompt.spans, watch)
        with self._before_vision_layers(on_layer):
            output = model.model(
                **inputs,
                position_ids=prompt.position_ids.to(device),
                use_cache=True,
                **with_cache(model.model, self._mask.over(cache)),
            )
        return model.lm_head(output.last_hidden_state[0, -1]).float()

    @contextmanager
    def _before_vision_layers(self, call: Callable[[], None] | None) -> Iterator[None]:
        """Have `call` called before each member of the module lists outside the text model."""
        if call is None:
            yield
            return
        whole = self.loaded.model.model
        text = set(self.loaded.family.text_model(self.loaded.model).modules())
        lists = [part for part in whole.modules() if isinstance(part, nn.ModuleList) and part not in text]
        hooks = [layer.register_forward_pre_hook(lambda *_: call()) for one in lists for layer in one]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @told_as_out_of_memory()
    @torch.inference_mode()
    def decode(self, slots: Sequence[int], tokens: Sequence[int], positions: Sequence[int]) -> torch.Tensor:
        """Run one token of each sequence at its position. Returns logits, (len(slots), vocab) float32.

        Raises OutOfMemory. A step that fails can be run again, without sequences that were released meanwhile.
        """
        if self.graphed is not None:
            return self.graphed.step(slots, tokens, positions)
        device = self.loaded.device
        with self.cache.step(slots) as step:
            return self._forward(
                torch.tensor(tokens, device=device)[:, None], torch.tensor(positions, device=device), step
            )

    def _forward(self, tokens: torch.Tensor, positions: torch.Tensor, cache: DecodeCache) -> torch.Tensor:
        family = self.loaded.family
        text_model = family.text_model(self.loaded.model)
        output = text_model(
            input_ids=tokens,
            position_ids=family.decode_positions(positions),
            use_cache=True,
            **with_cache(text_model, self._mask.over(cache)),
        )
        return self.loaded.model.lm_head(output.last_hidden_state[:, -1]).float()
