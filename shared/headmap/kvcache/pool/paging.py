"""The number of pages that a sequence needs, computed from the cache's shape without a pool."""

from __future__ import annotations

from dataclasses import dataclass

from headmap.budgets import Ints
from headmap.kvcache.plan import KeepPlan
from headmap.kvcache.shape import CacheShape

PAGE_TOKENS = 16


@dataclass(frozen=True)
class Paging:
    """Page counts. A page holds `page_tokens` tokens of one KV head of one layer."""

    shape: CacheShape
    page_tokens: int = PAGE_TOKENS

    @property
    def page_bytes(self) -> int:
        return self.page_tokens * self.shape.token_bytes

    def part(self, plan: KeepPlan, past: Ints | None = None) -> int:
        """The maximum pages of the immutable part. `past`: (num_layers, num_kv_heads), tokens already in its rows."""
        layers = self.shape.budgeted_layers
        tokens = plan.tokens[layers] + (0 if past is None else past[layers])
        if plan.shared_out_by_prompt and not plan.keeps_all:
            # Only a layer's sum is known. Each head may use only one place of its last page.
            slack = self.shape.num_kv_heads * (self.page_tokens - 1)
            return int(((tokens.sum(1) + slack) // self.page_tokens).sum())
        return int((-(-tokens // self.page_tokens)).sum())

    def tail(self, tokens: int) -> int:
        """Pages for `tokens` generated tokens in layers that see everything."""
        return len(self.shape.budgeted_layers) * self.shape.num_kv_heads * -(-tokens // self.page_tokens)

    def ring(self, tokens: int) -> int:
        """Pages of the sliding layers for `tokens` tokens."""
        held = min(tokens, self.shape.window or 0)
        return len(self.shape.sliding_layers) * self.shape.num_kv_heads * -(-held // self.page_tokens)

    def sequence(self, plan: KeepPlan, new_tokens: int, past: Ints | None = None) -> int:
        """Pages of a sequence with `new_tokens` generated tokens."""
        return self.part(plan, past) + self.tail(new_tokens) + self.ring(self.in_ring(plan, past) + new_tokens)

    def in_ring(self, plan: KeepPlan, past: Ints | None = None) -> int:
        """Tokens in the rows of sliding layers after a prompt, including the tokens of `past`."""
        sliding = list(self.shape.sliding_layers)
        return plan.prompt_tokens + (int(past[sliding].max()) if past is not None and sliding else 0)

    def full(self, prompt_tokens: int) -> int:
        """Pages of a prompt if every layer keeps all the tokens that it sees."""
        return self.tail(prompt_tokens) + self.ring(prompt_tokens)
