"""What is free, as a stack of integers: handing out and taking back are one copy each."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from headmap.errors import OutOfMemory

Int32s = npt.NDArray[np.int32]


class FreeList:
    """The numbers 0 to `count` - 1, each free or handed out. Those given back last go out first."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._stack: Int32s = np.arange(count, dtype=np.int32)
        self._taken = 0  # the top of the stack lies after them

    def __len__(self) -> int:
        """How many are free."""
        return self.count - self._taken

    def take(self, count: int) -> Int32s:
        """`count` free numbers, (count,) int32. Raises OutOfMemory, with nothing taken, where there are fewer."""
        if count > len(self):
            raise OutOfMemory(f"{count} KV pages are needed and {len(self)} of {self.count} are free")
        taken = self._stack[self._taken : self._taken + count].copy()
        self._taken += count
        return taken

    def give(self, numbers: Int32s) -> None:
        """Take back what `take` handed out."""
        self._taken -= len(numbers)
        self._stack[self._taken : self._taken + len(numbers)] = numbers
