"""What is free, as a stack of integers: handing out and taking back are one copy each."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from headmap.errors import OutOfMemory

Int32s = npt.NDArray[np.int32]


class FreeList:
    """The numbers 0 to `count` - 1, each free or handed out. The one given back last goes out first."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._stack: Int32s = np.arange(count - 1, -1, -1, dtype=np.int32)
        self._free = count

    def __len__(self) -> int:
        """How many are free."""
        return self._free

    def take(self, count: int) -> Int32s:
        """`count` free numbers, (count,) int32. Raises OutOfMemory, with nothing taken, where there are fewer."""
        if count > self._free:
            raise OutOfMemory(f"{count} KV pages are needed and {self._free} of {self.count} are free")
        self._free -= count
        return self._stack[self._free : self._free + count][::-1].copy()

    def give(self, numbers: Int32s) -> None:
        """Take back what `take` handed out."""
        self._stack[self._free : self._free + len(numbers)] = numbers[::-1]
        self._free += len(numbers)
