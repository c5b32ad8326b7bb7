"""Which tokens of a prompt a caller wants heads to keep, in plain numbers. A budget says how many, a selector which."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

from headmap.errors import InvalidParameter

Observe = Literal["window", "last"]

MOST_POOL = 15
FEWEST_RECENT = 8


@dataclass(frozen=True)
class Select:
    """Which tokens of a prompt are kept beside its most recent ones: those with the highest scores.

    observe: `window`, the attention of the prompt's last `window` tokens (SnapKV, arXiv 2404.14469, section 4), or
    `last`, that of its last token alone. window: as many tokens observe; None stands for the request's own window.
    pool: over how many neighbours the attention is averaged, 1 to 15. mix: 0 to 1, how much tokens that differ from the
    others gain (MixKV, arXiv 2510.20707, section 3.3); 0 is attention alone.
    """

    observe: Observe = "window"
    window: int | None = None
    pool: int = 5
    mix: float = 0.0

    def check(self) -> None:
        """Raises InvalidParameter, naming the field and its value."""
        if self.observe not in get_args(Observe):
            raise InvalidParameter(
                f'kv.select.observe: must be "window" or "last", got {self.observe!r}', param="kv.select.observe"
            )
        if self.window is not None and (self.window < 1 or self.observe == "last"):
            told = "observe: last is the last token alone" if self.observe == "last" else "must be at least 1"
            raise InvalidParameter(f"kv.select.window: {told}, got {self.window}", param="kv.select.window")
        if not 1 <= self.pool <= MOST_POOL:
            raise InvalidParameter(
                f"kv.select.pool: must be from 1 to {MOST_POOL}, got {self.pool}", param="kv.select.pool"
            )
        if not 0 <= self.mix <= 1:  # NaN fails the comparison too
            raise InvalidParameter(f"kv.select.mix: must be from 0 to 1, got {self.mix}", param="kv.select.mix")

    @property
    def keeps(self) -> int | None:
        """How many recent tokens are kept where a request leaves it open: as many as observe, but at least 8.

        None for a selector that leaves open how many observe, as SnapKV does: then it is the request's window. A larger
        number takes slots from the tokens that the scores choose, and from heads with few slots it takes half of them.
        """
        if self.observe == "window" and self.window is None:
            return None
        return max(FEWEST_RECENT, self.window or 1)

    def settled(self, window: int) -> Select:
        """This selector with the number of tokens that observe; at least one does."""
        return replace(self, window=1 if self.observe == "last" else max(1, self.window or window))


SNAPKV = Select()

SELECTORS = {
    "snapkv": SNAPKV,
    "last-query": Select("last", pool=7),
    "mixkv": Select(window=8, pool=11, mix=1.0),
}
"""Selectors by name."""

DEFAULT_SELECTOR = "mixkv"
"""The best on average of what was measured (docs/findings.md), on each of two models."""


def default_selector(window: int | None) -> Select:
    """The selector of a request that names none. `window` is SnapKV's number, so a request with it means SnapKV."""
    return SELECTORS[DEFAULT_SELECTOR] if window is None else SNAPKV


def get_selector(name: str) -> Select:
    """Return the selector `name`. Raises InvalidParameter, which lists the known names."""
    if name not in SELECTORS:
        raise InvalidParameter(f"kv.select: {name!r} is not one of {', '.join(SELECTORS)}", param="kv.select")
    return SELECTORS[name]


def selector_name(select: Select) -> str | None:
    """The name of a selector; None for one that has none."""
    return next((name for name, one in SELECTORS.items() if one == select), None)
