"""The contract of a cache method: budgets in integers first, then a choice of tokens layer by layer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from headmap.budgets import BudgetRule, Ints
from headmap.head_scores import HeadScores
from headmap.kvcache.shape import CacheShape

if TYPE_CHECKING:
    import torch

    from headmap.kvcache.selection import Observed


class Method(ABC):
    """A way to size the heads' caches. It has no state: one instance serves every request.

    A method overrides `budgets`. It overrides `score_tokens` to choose tokens in its own way, and `head_budgets` (with
    `decides_per_prompt`) to share a layer's budget by the tokens' scores.

    `name`: what a request calls it. `needs_budget`: a request must give a budget or a ratio. `needs_scores`: it works
    with head scores alone. `decides_per_prompt`: `head_budgets` divides each layer's tokens anew.
    """

    name: ClassVar[str]
    needs_budget: ClassVar[bool] = True
    needs_scores: ClassVar[bool] = False
    decides_per_prompt: ClassVar[bool] = False

    @abstractmethod
    def budgets(self, shape: CacheShape, rule: BudgetRule, prompt_tokens: int, scores: HeadScores | None) -> Ints:
        """The tokens that each KV head keeps, window included: (num_layers, num_kv_heads) int64.

        Called only where `rule.budget` is below `prompt_tokens`. With `exact` allocation the sum is rule.budget x
        num_layers x num_kv_heads, and no head is above `prompt_tokens`. `scores` may be None; a method that needs them
        then raises NoMapForModel.
        """

    def score_tokens(self, seen: Observed) -> torch.Tensor:
        """How much each head wants each token before the window: (num_kv_heads, n - window) float32.

        The tokens with the highest scores stay. The default is what the window attends to, pooled (SnapKV, section 4;
        SparseMM, section 3.2).
        """
        return seen.window_attention()

    def head_budgets(self, scores: torch.Tensor, budgets: torch.Tensor) -> torch.Tensor:
        """Share a layer's tokens over its heads, once they have scores.

        `scores`: (num_kv_heads, candidates) float32, of the tokens before the window. `budgets`:
        (num_kv_heads,) int64 without the window. Returns budgets of the same sum; the default leaves them as planned.
        """
        del scores
        return budgets
