"""Every number of the training run in one place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """A stretch of training on pages of one size."""

    name: str
    until: float
    """The stage ends at this share of a cycle, 0 to 1."""
    min_cells: int
    max_cells: int
    pages: int
    """Pages of a step."""


@dataclass(frozen=True)
class Recipe:
    """First the vision tower alone, for `glyph_steps` optimizer steps, then all, for some cycles of steps.

    Each cycle goes through all stages and lets the learning rates fall to 0, so each ends with a model to measure
    (SGDR, arXiv 1608.03983).
    """

    seed: int = 1
    glyph_steps: int = 600
    glyph_lr: float = 2e-3
    glyphs: Stage = Stage("glyphs", 1.0, 200, 500, 8)
    cycles: tuple[int, ...] = (330, 900)
    """Optimizer steps of each cycle. Two CPU cores take an hour for the first; a GPU takes minutes for both."""
    update_lr: float = 1e-3
    vision_lr: float = 1e-4
    warmup_steps: int = 20
    clip_norm: float = 1.0
    cell_weight: float = 0.2
    """Weight of the cells' characters relative to the answers."""
    transcription_weight: float = 0.5
    stages: tuple[Stage, ...] = (
        Stage("small", 0.6, 200, 500, 4),
        Stage("large", 0.9, 900, 1500, 2),
        Stage("both", 1.0, 300, 1100, 3),
    )

    @property
    def steps(self) -> int:
        """Steps of all cycles."""
        return sum(self.cycles)

    def stage_at(self, step: int) -> Stage:
        """The stage of step `step` of all cycles, counted from 0."""
        step, length = self._in_cycle(step)
        return next((stage for stage in self.stages if step < stage.until * length), self.stages[-1])

    def lr_share(self, step: int) -> float:
        """The learning rates of a step as a share of their highest values: they rise, then fall linearly to 0."""
        step, length = self._in_cycle(step)
        return min(1.0, (step + 1) / self.warmup_steps) * (1 - step / length)

    def _in_cycle(self, step: int) -> tuple[int, int]:
        """The step counted from the start of its cycle, and the cycle's length."""
        for length in self.cycles:
            if step < length:
                return step, length
            step -= length
        raise ValueError(f"step {self.steps + step} is beyond the recipe's {self.steps}")
