"""Integers that the books write and the device's kernels read, at addresses that never change."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch


class SharedInts:
    """The same values in `host` and `device`. They share memory on a CPU; otherwise `send` copies changes."""

    def __init__(self, shape: tuple[int, ...], device: torch.device, dtype: npt.DTypeLike = np.int32) -> None:
        self.host: npt.NDArray[np.signedinteger] = np.zeros(shape, dtype=dtype)
        own = torch.from_numpy(self.host)
        self.device = own if device.type == "cpu" else own.to(device)
        self._copied = device.type != "cpu"

    def send(self, index: int | slice | npt.NDArray[np.signedinteger] = slice(None)) -> None:
        """Copy the rows `index` of the first axis to the device."""
        if not self._copied:
            return
        rows = torch.from_numpy(np.ascontiguousarray(self.host[index]))
        if isinstance(index, np.ndarray):
            places = torch.from_numpy(index.astype(np.int64)).to(self.device.device)
            self.device.index_copy_(0, places, rows.to(self.device.device))
        else:
            self.device[index].copy_(rows, non_blocking=False)
