"""Rows of parquet files, one file after the other, with their pictures. Needs pyarrow, which may not be installed."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from PIL import Image

from headmap.datasets.pictures import page_picture
from headmap.errors import DatasetUnavailable, InvalidDataset


def column_names(file: Path) -> list[str]:
    """Raises DatasetUnavailable without pyarrow, and InvalidDataset for a file that is not parquet."""
    names: list[str] = _reader(file).schema_arrow.names
    return names


class ParquetRows:
    """The rows of `files`, of which `columns` are read. It holds one row group, the one of the last row.

    Raises as `column_names`, and InvalidDataset if a file lacks a column.
    """

    def __init__(self, files: Sequence[Path], columns: Sequence[str]) -> None:
        self._columns = list(columns)
        self._groups: list[tuple[Path, Any, int]] = []
        """File, reader and number of each row group."""
        counts: list[int] = []
        for file in files:
            reader = _reader(file)
            names = reader.schema_arrow.names
            if missing := [column for column in columns if column not in names]:
                raise InvalidDataset(
                    f"{file.name}: column {missing[0]!r} is missing; there are {', '.join(names)}", param="dataset"
                )
            for number in range(reader.metadata.num_row_groups):
                self._groups.append((file, reader, number))
                counts.append(reader.metadata.row_group(number).num_rows)
        self._ends = list(accumulate(counts))
        self._held: tuple[int, list[dict[str, Any]]] = (-1, [])

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def row(self, index: int) -> tuple[str, dict[str, Any]]:
        """The name of the file, and the row as plain data."""
        group = bisect_right(self._ends, index)
        file, reader, number = self._groups[group]
        if self._held[0] != group:
            self._held = (group, reader.read_row_group(number, columns=self._columns).to_pylist())
        rows = self._held[1]
        return file.name, rows[index - (self._ends[group] - len(rows))]


def picture_of(row: dict[str, Any], where: str, *, max_pixels: int) -> Image.Image:
    """The picture of column `image`: a struct of `bytes` and `path`, or the bytes. Raises InvalidDataset."""
    where = f"{where}: column 'image'"
    image = row["image"]
    data = image.get("bytes") if isinstance(image, dict) else image
    if not isinstance(data, bytes):
        raise InvalidDataset(f"{where} must hold the picture's bytes, not {type(data).__name__}", param="dataset")
    return page_picture(data, where, max_pixels=max_pixels)


def _reader(file: Path) -> Any:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise DatasetUnavailable(
            "dataset: parquet files need pyarrow, which is not installed", param="dataset"
        ) from error
    try:
        return parquet.ParquetFile(file)
    except (OSError, pyarrow.ArrowException) as error:
        raise InvalidDataset(f"{file.name}: is not a readable parquet file ({error})", param="dataset") from error
