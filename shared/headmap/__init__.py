"""Headmap: profile a multimodal model's visual heads once, serve it with a KV cache sized head by head.

The names of the library can be imported from here. Each is loaded on its first use, so `import headmap` needs
no torch and no transformers.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headmap.budgets import BudgetRule, allocate_budgets
    from headmap.head_scores import Comparison, HeadScores, compare
    from headmap.kvcache.plan import KVRequest
    from headmap.kvcache.transformers.attention import use_headmap_attention, with_cache
    from headmap.kvcache.transformers.generate import GenerateCache

__all__ = [
    "BudgetRule",
    "Comparison",
    "GenerateCache",
    "HeadScores",
    "KVRequest",
    "allocate_budgets",
    "compare",
    "use_headmap_attention",
    "with_cache",
]

__version__ = "0.1.0"

_HOMES = {
    "BudgetRule": "headmap.budgets",
    "Comparison": "headmap.head_scores",
    "GenerateCache": "headmap.kvcache.transformers.generate",
    "HeadScores": "headmap.head_scores",
    "KVRequest": "headmap.kvcache.plan",
    "allocate_budgets": "headmap.budgets",
    "compare": "headmap.head_scores",
    "use_headmap_attention": "headmap.kvcache.transformers.attention",
    "with_cache": "headmap.kvcache.transformers.attention",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
