"""Prefill: attention uses all of a layer's keys and values, then the cache keeps the tokens of the plan.

Several prompts run in one row, one after the other. Each prompt sees only itself. A layer's full keys are dropped
before the next layer runs, so at most one layer holds its full keys.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from headmap.budgets import Ints
from headmap.kvcache.backends.base import DecodeBackend
from headmap.kvcache.methods import get_method
from headmap.kvcache.plan import KeepPlan
from headmap.kvcache.select import Select
from headmap.kvcache.selection import Observed, keep_tokens
from headmap.kvcache.transformers.attention import LayerAttention, PromptMask, causal_attention
from headmap.kvcache.transformers.head_watch import HeadWatch
from headmap.kvcache.transformers.on_top import ParkedSequence, attend_on_top, followed_by


@dataclass(frozen=True)
class Prompt:
    """A prompt of a prefill, and the slot admitted for its plan.

    spans: the pictures whose tokens see each other in both directions. past: the tokens before a later turn. The turn's
    tokens see the past, and the sequence takes over the past. plan and spans then describe only the turn's tokens.
    watch: records the tokens that one head keeps. also: more slots and plans for the same prompt. Each of them keeps
    its own selection from the same forward pass, and uses no past and no watch.
    """

    slot: int
    plan: KeepPlan
    spans: tuple[tuple[int, int], ...] = ()
    past: ParkedSequence | None = None
    watch: HeadWatch | None = None
    also: Sequence[tuple[int, KeepPlan]] = ()


@dataclass(frozen=True)
class PrefillCache:
    """A model's cache for whole prompts in one row. It calls `on_layer` before each layer."""

    backend: DecodeBackend
    prompts: Sequence[Prompt]
    on_layer: Callable[[], None] | None = None

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[LayerAttention, LayerAttention]:
        """`keys`, `values`: (1, num_kv_heads, tokens of all prompts, head_dim)."""
        if self.on_layer is not None:
            self.on_layer()
        tokens = sum(prompt.plan.prompt_tokens for prompt in self.prompts)
        if keys.shape[0] != 1 or keys.shape[2] != tokens:
            raise ValueError(f"plans for {tokens} tokens in one row, got {keys.shape[0]} x {keys.shape[2]}")
        window = self.backend.pool.shape.window_of(layer_idx)
        layer = _PrefillLayer(self, keys[0], values[0], layer_idx, window)
        return layer, layer

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0

    def done(self) -> None:
        """Finish after the last layer: free unneeded pages, so that decoding can begin."""
        for prompt in self.prompts:
            for slot, _ in ((prompt.slot, prompt.plan), *prompt.also):
                self.backend.pool.books.seal(slot)


@dataclass(frozen=True)
class _PrefillLayer(LayerAttention):
    prefill: PrefillCache
    keys: torch.Tensor
    values: torch.Tensor
    layer_idx: int
    window: int | None = None

    def attend(self, queries: torch.Tensor, scaling: float) -> torch.Tensor:
        prompts = self.prefill.prompts
        counts = [prompt.plan.prompt_tokens for prompt in prompts]
        parts = zip(
            prompts, queries.split(counts, 2), self.keys.split(counts, 1), self.values.split(counts, 1), strict=True
        )
        # Made contiguous by head once, because attention, selection and placement all read them by head.
        outputs = [
            self._attend_one(prompt, own, keys.contiguous(), values.contiguous(), scaling)
            for prompt, own, keys, values in parts
        ]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)

    def _attend_one(
        self, prompt: Prompt, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        """`queries`: (1, num_heads, n, d); `keys`, `values`: (num_kv_heads, n, d)."""
        mask = PromptMask(self.window, prompt.spans)
        past = None if prompt.past is None else prompt.past.rows(self.layer_idx, keys.device)
        if past is None:
            output = causal_attention(queries, keys[None], values[None], scaling, mask)
        else:
            output = attend_on_top(queries, keys, values, past, scaling, mask)
        observed: dict[tuple[int, Select], Observed] = {}  # plans with the same selector share the same scores
        for one in (prompt, *(Prompt(slot, plan) for slot, plan in prompt.also)):
            plan, keep = one.plan, None
            if self.window is not None:
                self._keep_window(one, keys, values)
                continue
            if not plan.keeps_all:
                seen = observed.get((plan.recent, plan.select))
                if seen is None:
                    last = queries[0, :, -(plan.select.window or 1) :]
                    seen = Observed(last, keys, scaling, plan.recent, plan.select, mask)
                    observed[plan.recent, plan.select] = seen
                budgets = torch.from_numpy(plan.tokens[self.layer_idx]).to(queries.device)
                keep = keep_tokens(get_method(plan.method), seen, budgets)
            if one.watch is not None:
                one.watch.note(self.layer_idx, 0, keys.shape[1], keep)
            self._keep(one, keys, values, keep)
        return output

    def _keep_window(self, prompt: Prompt, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Store the last `window` tokens of a sliding layer, starting at the first place of the ring."""
        pool, window = self.prefill.backend.pool, self.window or 0
        if prompt.past is not None:
            keys, values = followed_by(prompt.past.rows(self.layer_idx, keys.device), keys, values, window)
        keys, values = keys[:, -window:], values[:, -window:]
        held = keys.shape[1]
        pool.write_rows(pool.books.ring.pages(prompt.slot, self.layer_idx, held), keys, values)
        pool.books.ring.begin(prompt.slot, held)
        if prompt.watch is not None:
            prompt.watch.note(self.layer_idx, prompt.plan.prompt_tokens - held, held, None)

    def _keep(self, prompt: Prompt, keys: torch.Tensor, values: torch.Tensor, keep: torch.Tensor | None) -> None:
        """Write a layer's kept tokens after its rows' earlier tokens. `keep`: (num_kv_heads, n) bool."""
        pool, (heads, n, d) = self.prefill.backend.pool, keys.shape
        counts = self._counts(prompt.plan, keep, n, heads)
        if prompt.past is None and keep is None:
            pages = pool.books.place(prompt.slot, self.layer_idx, counts)
            pool.write_rows(pages.reshape(heads, -1), keys, values)
            return
        keys, values = keys.reshape(-1, d), values.reshape(-1, d)
        before = np.zeros(heads, dtype=np.int64)
        if prompt.past is not None:
            before = prompt.past.lengths[self.layer_idx]
            held_keys, held_values = (of.to(keys.device) for of in prompt.past.layers[self.layer_idx])
            keys, values = torch.cat([keys, held_keys]), torch.cat([values, held_values])
        pages = pool.books.place(prompt.slot, self.layer_idx, before + counts)
        source = self._source(keep, counts, before, n, len(pages) * pool.page_tokens, keys.device)
        self.prefill.backend.write(pages, source, keys, values)

    def _counts(self, plan: KeepPlan, keep: torch.Tensor | None, n: int, heads: int) -> Ints:
        """(num_kv_heads,) int64: tokens per head. Reads the device only if the plan has no count."""
        if keep is None:
            return np.full(heads, n, dtype=np.int64)
        if plan.shared_out_by_prompt:
            return np.asarray(keep.sum(1).cpu().numpy())
        return plan.tokens[self.layer_idx]

    def _source(
        self, keep: torch.Tensor | None, counts: Ints, before: Ints, n: int, places: int, device: torch.device
    ) -> torch.Tensor:
        """(places,) int64: the token for each place of the rows' pages, or 0 for a free place.

        Tokens are numbered consecutively over all heads, head by head. Earlier tokens follow the prompt's tokens.
        """
        size, heads = self.prefill.backend.pool.page_tokens, len(counts)
        held = before + counts
        starts = size * np.cumsum(np.concatenate([[0], -(-held // size)]))[:-1]
        own_starts = torch.from_numpy(starts + before).to(device)[:, None]
        source = torch.zeros(places + 1, dtype=torch.int64, device=device)
        if keep is None:
            index = own_starts + torch.arange(n, device=device)
        else:  # dropped tokens go to one place past the end, so the host need not know them
            index = (own_starts + keep.cumsum(1) - 1).masked_fill_(~keep, places)
        source.scatter_(0, index.reshape(-1), torch.arange(heads * n, device=device))
        if before.any():
            earlier = (
                np.repeat(starts, before) + np.arange(before.sum()) - np.repeat(np.cumsum(before) - before, before)
            )
            tokens = torch.arange(heads * n, heads * n + int(before.sum()), device=device)
            source[torch.from_numpy(earlier).to(device)] = tokens
        return source[:places]
