"""A caller's request to the cache, and how many tokens of a prompt each head keeps for it: integers alone."""

from __future__ import annotations

from dataclasses import dataclass

from headmap.budgets import DEFAULT_UNIFORM, Allocation, Ints


@dataclass(frozen=True)
class KVRequest:
    """What a caller asks of the cache. Give `budget` (tokens per head, average) or `ratio` (share of the prompt)."""

    method: str = "full"
    budget: int | None = None
    ratio: float | None = None
    allocation: Allocation = "exact"
    window: int | None = None
    uniform: float = DEFAULT_UNIFORM


@dataclass(frozen=True)
class KeepPlan:
    """How many tokens each KV head keeps of a prompt of `prompt_tokens`.

    `tokens`: (num_layers, num_kv_heads) int64. With `shared_out_by_prompt` the method decides in each layer, once the
    attention is known, and only the sums over heads are binding. The last `window` tokens are always kept. `most`:
    (num_layers,) int64, what a head holds when it keeps all that its layer sees.
    """

    method: str
    prompt_tokens: int
    budget: int
    window: int
    allocation: Allocation
    tokens: Ints
    most: Ints
    shared_out_by_prompt: bool = False

    @property
    def keeps_all(self) -> bool:
        return bool((self.tokens >= self.most[:, None]).all())

    @property
    def kept_tokens(self) -> int:
        return int(self.tokens.sum())
