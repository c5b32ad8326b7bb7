"""The interface of a cache method: how many tokens each head keeps. A selector chooses which."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from headmap.budgets import BudgetRule, Ints
from headmap.head_scores import HeadScores
from headmap.kvcache.shape import CacheShape

if TYPE_CHECKING:
    import torch


class Method(ABC):
    """A method to size the heads' caches. It has no state, so one instance serves every request.

    A method overrides `budgets`. It may override `head_budgets` (and set `decides_per_prompt`) to divide a layer's
    budget by the tokens' attention.

    `name`: its name in a request. `needs_budget`: a request must give a budget or a ratio. `needs_scores`: the method
    needs head scores. `decides_per_prompt`: `head_budgets` divides each layer's tokens for each prompt.
    """

    name: ClassVar[str]
    needs_budget: ClassVar[bool] = True
    needs_scores: ClassVar[bool] = False
    decides_per_prompt: ClassVar[bool] = False

    @abstractmethod
    def budgets(self, shape: CacheShape, rule: BudgetRule, prompt_tokens: int, scores: HeadScores | None) -> Ints:
        """Return the number of tokens that each KV head keeps, window included: (num_layers, num_kv_heads) int64.

        This is called only if `rule.budget` is below `prompt_tokens`. With `exact` allocation the sum is rule.budget x
        num_layers x num_kv_heads, and no head is above `prompt_tokens`. `scores` may be None; a method that needs them
        then raises NoMapForModel.
        """

    def head_budgets(self, scores: torch.Tensor, budgets: torch.Tensor) -> torch.Tensor:
        """Divide a layer's tokens over its heads by the tokens' attention.

        `scores`: (num_kv_heads, candidates) float32, the pooled attention to the tokens before the recent ones.
        `budgets`: (num_kv_heads,) int64, without the recent tokens. Returns budgets with the same sum. The default
        returns `budgets` unchanged.
        """
        del scores
        return budgets
