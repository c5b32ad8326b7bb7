"""A caller's request to the cache, and the number of prompt tokens that each head keeps. Integers only."""

from __future__ import annotations

from dataclasses import dataclass

from headmap.budgets import DEFAULT_UNIFORM, Allocation, Ints, resolve_recent
from headmap.kvcache.select import SNAPKV, Select, default_selector


@dataclass(frozen=True)
class KVRequest:
    """A caller's request to the cache for one prompt.

    `method`: a name in `headmap.kvcache.methods.METHODS`. Every method except `full` needs either `budget`, the average
    number of tokens per KV head, or `ratio`, a share of the prompt in (0, 1]. `window`: how many of the prompt's last
    tokens observe, and are kept by every head; when None, as many as the selector says, else min(32, budget // 2).
    `keep_recent`: how many are kept, if other than observe. `select`: which of the others are kept; None stands for
    `selector`. `uniform` and `allocation`: see BudgetRule.

    This class checks nothing; `check_request` and `plan_cache` validate a request.
    """

    method: str = "full"
    budget: int | None = None
    ratio: float | None = None
    allocation: Allocation = "exact"
    window: int | None = None
    uniform: float = DEFAULT_UNIFORM
    keep_recent: int | None = None
    select: Select | None = None

    @property
    def selector(self) -> Select:
        """The selector: `select`, or the default of all routes if it is None."""
        return default_selector(self.window) if self.select is None else self.select

    def recent(self, budget: int) -> tuple[int, int]:
        """How many of the prompt's last tokens every head keeps, and how many observe unless the selector says.

        Raises InvalidParameter and BudgetTooSmall, as `resolve_recent` does.
        """
        keeps = self.selector.keeps
        if self.window is None and self.keep_recent is None and keeps is not None:
            return resolve_recent(budget, None, min(keeps, budget // 2))
        return resolve_recent(budget, self.window, self.keep_recent)


@dataclass(frozen=True)
class KeepPlan:
    """How many tokens each KV head keeps of a prompt with `prompt_tokens` tokens.

    `tokens`: (num_layers, num_kv_heads) int64. It includes the last `recent` tokens, which every head keeps. `select`
    chooses the others; its `window` is the number of tokens that observe. `budget`: the requested average. `most`:
    (num_layers,) int64, the number of tokens that a head holds if it keeps all that its layer sees. With
    `shared_out_by_prompt` the method divides each layer's tokens over its heads once the attention is known. Then only
    the sum over the heads of each layer is binding.
    """

    method: str
    prompt_tokens: int
    budget: int
    recent: int
    allocation: Allocation
    tokens: Ints
    most: Ints
    shared_out_by_prompt: bool = False
    select: Select = SNAPKV

    @property
    def keeps_all(self) -> bool:
        """Whether no head drops a token that its layer sees."""
        return bool((self.tokens >= self.most[:, None]).all())

    @property
    def kept_tokens(self) -> int:
        """Tokens over all layers and KV heads."""
        return int(self.tokens.sum())
