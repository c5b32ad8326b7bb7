"""Free numbers: taking them back copies nothing, handing them out is one copy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from headmap.errors import OutOfMemory

Int32s = npt.NDArray[np.int32]


class FreeList:
    """The numbers 0 to `count` - 1, each free or handed out. Those given back last go out first, else the lowest."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._pieces: list[Int32s] = [np.arange(count, dtype=np.int32)]
        self._free = count

    def __len__(self) -> int:
        """How many are free."""
        return self._free

    def take(self, count: int) -> Int32s:
        """`count` free numbers, (count,) int32. Raises OutOfMemory, with nothing taken, where there are fewer."""
        if count > self._free:
            raise OutOfMemory(f"{count} KV pages are needed and {self._free} of {self.count} are free")
        self._free -= count
        taken: list[Int32s] = [np.empty(0, dtype=np.int32)]
        while count:
            piece = self._pieces.pop()
            if len(piece) > count:
                piece, rest = piece[:count], piece[count:]
                # A view of a piece would keep all of its memory.
                whole = rest.base is not None and 2 * len(rest) < rest.base.size
                self._pieces.append(rest.copy() if whole else rest)
            taken.append(piece)
            count -= len(piece)
        return np.concatenate(taken)

    def give(self, numbers: Int32s) -> None:
        """Take back what `take` handed out. `numbers` are kept as they are: nobody may write to them any more."""
        if len(numbers):
            self._pieces.append(numbers)
            self._free += len(numbers)
