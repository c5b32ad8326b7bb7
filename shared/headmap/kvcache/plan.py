"""A caller's request to the cache, and how many tokens of a prompt each head keeps for it: integers alone."""

from __future__ import annotations

from dataclasses import dataclass

from headmap.budgets import DEFAULT_UNIFORM, Allocation, Ints


@dataclass(frozen=True)
class KVRequest:
    """What a caller asks of the cache, for one prompt.

    `method`: a name in `headmap.kvcache.methods.METHODS`. All but `full` need either `budget`, tokens per KV head on
    average, or `ratio`, a share of the prompt in (0, 1]. `window`: how many of the prompt's last tokens every head
    keeps; min(32, budget // 2) when None. `uniform` and `allocation`: as in BudgetRule.

    Nothing is checked here; `check_request` and `plan_cache` do that.
    """

    method: str = "full"
    budget: int | None = None
    ratio: float | None = None
    allocation: Allocation = "exact"
    window: int | None = None
    uniform: float = DEFAULT_UNIFORM


@dataclass(frozen=True)
class KeepPlan:
    """How many tokens each KV head keeps of a prompt of `prompt_tokens`.

    `tokens`: (num_layers, num_kv_heads) int64, the last `window` tokens included, which every head keeps. `budget`: the
    average that was asked for. `most`: (num_layers,) int64, what a head holds when it keeps all that its layer sees.
    With `shared_out_by_prompt` the method divides each layer's tokens over its heads once the attention is known, and
    only the sums over the heads of a layer are binding.
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
        """Whether no head drops a token that its layer sees."""
        return bool((self.tokens >= self.most[:, None]).all())

    @property
    def kept_tokens(self) -> int:
        """Tokens over all layers and KV heads."""
        return int(self.tokens.sum())
