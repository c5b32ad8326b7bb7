"""A list of free numbers. Giving numbers back copies nothing; taking numbers makes one copy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from headmap.errors import OutOfMemory

Int32s = npt.NDArray[np.int32]


class FreeList:
    """The numbers 0 to `count` - 1, each free or taken. Numbers given back last are taken first, then the lowest."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._pieces: list[Int32s] = [np.arange(count, dtype=np.int32)]
        self._free = count

    def __len__(self) -> int:
        """The count of free numbers."""
        return self._free

    def take(self, count: int) -> Int32s:
        """Take `count` free numbers, (count,) int32. If there are fewer, it takes nothing and raises OutOfMemory."""
        if count > self._free:
            raise OutOfMemory(f"{count} KV pages are needed and {self._free} of {self.count} are free")
        self._free -= count
        taken: list[Int32s] = [np.empty(0, dtype=np.int32)]
        while count:
            piece = self._pieces.pop()
            if len(piece) > count:
                piece, rest = piece[:count], piece[count:]
                # A view would keep the whole array in memory.
                whole = rest.base is not None and 2 * len(rest) < rest.base.size
                self._pieces.append(rest.copy() if whole else rest)
            taken.append(piece)
            count -= len(piece)
        return np.concatenate(taken)

    def give(self, numbers: Int32s) -> None:
        """Give back numbers from `take`. The array is not copied, so the caller must not write to it again."""
        if len(numbers):
            self._pieces.append(numbers)
            self._free += len(numbers)
