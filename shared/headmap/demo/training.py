"""What both training programs share: a progress bar, and settings of memory. It does not import torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def keep_freed_memory() -> None:
    """Have processes that start later keep memory they free: page faults take up to half of the time otherwise."""
    for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_"):
        os.environ.setdefault(name, str(1 << 30))


@contextmanager
def shown_progress(total: int, done: int, *, silent: bool = False) -> Iterator[Callable[[int, str], None]]:
    """Show a progress bar of `total` steps, `done` of them finished. Yields a function that shows a step and a line."""
    columns = (TextColumn("{task.percentage:>3.0f} %"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=silent) as progress:
        task = progress.add_task("training", total=total, completed=done)

        def show(step: int, line: str) -> None:
            progress.update(task, completed=step)
            progress.console.print(f"step {step}/{total}  {line}", highlight=False, soft_wrap=True)

        yield show
