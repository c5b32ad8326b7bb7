"""Every number of the training run in one place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """A stretch of training on pages of one size."""

    name: str
    until: float
    """The stage ends at this share of the run, 0 to 1."""
    min_lines: int
    max_lines: int
    max_cells: int
    pages: int
    """Pages of each share of a step."""
    reads: bool = True
    """Whether the text model is trained; if not, only the vision tower is, on the cell losses."""


@dataclass(frozen=True)
class Recipe:
    """One run from scratch. `steps` counts optimizer steps."""

    steps: int = 2100
    seed: int = 1
    shares: int = 2
    """The number of parts of a step's pages. It limits the number of processes."""
    muon_lr: float = 0.02
    adam_lr: float = 2e-3
    final_lr_share: float = 0.02
    warmup_steps: int = 50
    decay_from: float = 0.3
    """Share of the run after which the learning rates fall linearly."""
    clip_norm: float = 1.0
    cell_weight: float = 0.2
    """Weight of the cell losses relative to the answer loss."""
    look_weight: float = 0.005
    """Weight of the price on looking at the picture, which leaves the reading to few heads."""
    context: int = 4
    """The number of preceding characters, in reading order, that each visual token must predict."""
    stages: tuple[Stage, ...] = (
        Stage("glyphs", 0.13, 3, 6, 160, 7, reads=False),
        Stage("short", 0.35, 3, 5, 140, 6),
        Stage("middle", 0.53, 5, 9, 300, 4),
        Stage("full", 1.00, 8, 14, 500, 4),
    )

    def stage_at(self, step: int) -> Stage:
        """The stage of optimizer step `step`, counted from 0."""
        for stage in self.stages:
            if step < stage.until * self.steps:
                return stage
        return self.stages[-1]

    def lr_share(self, step: int) -> float:
        """The learning rates of a step as a share of their highest values."""
        warm = min(1.0, (step + 1) / self.warmup_steps)
        falling = max(0.0, step / self.steps - self.decay_from) / (1.0 - self.decay_from)
        return warm * (1.0 - (1.0 - self.final_lr_share) * falling)
