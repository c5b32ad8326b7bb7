"""Run a model on the ragged cache: whole prompts in, one token of every running sequence out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from headmap.device_errors import told_as_out_of_memory
from headmap.engine.compiled import compiled_text, running
from headmap.engine.graphs import Capture, GraphedDecoder
from headmap.families.base import PreparedPrompt
from headmap.families.loading import LoadedModel
from headmap.kvcache.transformers.attention import with_cache
from headmap.kvcache.transformers.cache import RaggedCache
from headmap.kvcache.transformers.decode import DecodeCache
from headmap.kvcache.transformers.head_masks import Cache, HeadMask
from headmap.kvcache.transformers.prefill import Prompt

OnLayer = Callable[[], None]
OnHidden = Callable[[int, torch.Tensor], None]


class ModelRunner:
    """Computes with tensors and decides nothing: the caller decides who runs, and with which budget.

    capture: makes CUDA graphs of decode steps. compiled: torch compiles their layers; no head is masked then.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        cache: RaggedCache,
        mask: HeadMask | None = None,
        capture: Capture | None = None,
        *,
        compiled: bool = False,
    ) -> None:
        self.loaded = loaded
        self.cache = cache
        self._mask = mask or HeadMask(())
        self._text_model = loaded.family.text_model(loaded.model)
        self._compiled = compiled_text(self._text_model, cache.shape) if compiled else None
        self.graphed = GraphedDecoder(self._forward, cache.backend, capture) if capture else None

    @told_as_out_of_memory()
    @torch.inference_mode()
    def prefill(
        self,
        prompts: Sequence[Prompt],
        prepared: Sequence[PreparedPrompt],
        on_layer: OnLayer | None = None,
        on_hidden: OnHidden | None = None,
    ) -> torch.Tensor:
        """Run whole prompts in one row, and keep the tokens of their plans. Returns the next tokens' logits, (S, vocab)
        float32.

        `on_layer` is called before each layer of the vision tower, and before each text layer's attention; it may
        decode other sequences, and may raise to end the work. `on_hidden` is given each prompt's last hidden states,
        (n, hidden), and may do the same. Raises OutOfMemory, and ValueError if one of several prompts cannot be
        packed.
        """
        model, device = self.loaded.model, self.loaded.device
        packed = self.loaded.family.pack(prepared)
        inputs = {
            key: value.to(device, model.dtype) if value.is_floating_point() else value.to(device)
            for key, value in packed.inputs.items()
        }
        cache = self.cache.prefill(prompts, on_layer)
        with self._before_vision_layers(on_layer):
            output = model.model(
                **inputs,
                position_ids=packed.position_ids.to(device),
                use_cache=True,
                **with_cache(model.model, self._mask.over(cache)),
            )
        cache.done()
        hidden = output.last_hidden_state[0]
        if on_hidden is not None:
            for number, (start, end) in enumerate(packed.bounds):
                on_hidden(number, hidden[start:end])
        last = torch.tensor(packed.last_tokens, device=device)
        return model.lm_head(hidden.index_select(0, last)).float()

    @contextmanager
    def _before_vision_layers(self, call: OnLayer | None) -> Iterator[None]:
        """Call `call` before each member of the module lists outside the text model."""
        if call is None:
            yield
            return
        whole = self.loaded.model.model
        text = set(self._text_model.modules())
        lists = [part for part in whole.modules() if isinstance(part, nn.ModuleList) and part not in text]
        hooks = [layer.register_forward_pre_hook(lambda *_: call()) for one in lists for layer in one]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @told_as_out_of_memory()
    @torch.inference_mode()
    def extend(self, slot: int, tokens: Sequence[int], position: int, on_layer: OnLayer | None = None) -> None:
        """Run an answer's first tokens again, from `position` on, after a prefilled prompt."""
        device = self.loaded.device
        cache = self.cache.extend(slot, len(tokens), on_layer)
        positions = torch.arange(position, position + len(tokens), device=device)
        self._text(
            torch.tensor([list(tokens)], device=device),
            self.loaded.family.decode_positions(positions).transpose(-1, -2),
            cache,
        )
        cache.done()

    @told_as_out_of_memory()
    @torch.inference_mode()
    def decode(self, slots: Sequence[int], tokens: Sequence[int], positions: Sequence[int]) -> torch.Tensor:
        """Run one token of each sequence at its position. Returns logits, (len(slots), vocab) float32, good until the
        next step.

        Raises OutOfMemory. A failed step can be run again, without sequences released meanwhile.
        """
        device = self.loaded.device
        ids = torch.tensor(tokens, device=device)[:, None]
        places = torch.tensor(positions, device=device)
        with self.cache.step(slots) as step:
            if self.graphed is not None:
                return self.graphed.step(step, ids, places)
            return self._forward(ids, places, step)

    def _forward(self, tokens: torch.Tensor, positions: torch.Tensor, cache: DecodeCache) -> torch.Tensor:
        places = self.loaded.family.decode_positions(positions)
        if self._compiled is None:
            hidden = self._text(tokens, places, cache)
        else:
            with running(cache) as held:
                hidden = _last_states(self._compiled, tokens, places, held)
        return self.loaded.model.lm_head(hidden[:, -1]).float()

    def _text(self, tokens: torch.Tensor, positions: torch.Tensor, cache: Cache) -> torch.Tensor:
        return _last_states(self._text_model, tokens, positions, self._mask.over(cache))


def _last_states(text_model: nn.Module, tokens: torch.Tensor, positions: torch.Tensor, cache: object) -> torch.Tensor:
    held = with_cache(text_model, cache)
    return text_model(input_ids=tokens, position_ids=positions, use_cache=True, **held).last_hidden_state
