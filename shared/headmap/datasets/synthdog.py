"""The public set `synthdog-en-detection`: pictures of English text with boxes, in parquet files.

The schema by its card on the Hub: `image` is a struct of `bytes` and `path`, or the bytes themselves; `2_coord` is
a list of `{chunk, coord}`, a piece of text and its box as two corners `[[x0, y0], [x1, y1]]` in pixels of the picture.
Other columns are not read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headmap.datasets.parquet import ParquetRows, picture_of
from headmap.errors import DatasetUnavailable, InvalidDataset
from headmap.scoring.pages import Page, Word

SYNTHDOG = "synthdog-en"
_COLUMNS = ["image", "2_coord"]
_FIRST_FILE = "data/train-00000-of-*.parquet"


def open_synthdog(place: str, *, max_pixels: int) -> ParquetPages:
    """Open the set from a local folder (all its parquet files, by name) or by a Hub id (its first file).

    The first of the Hub's ten files has about 5,000 pages in 432 MB, five times what the paper uses; it is fetched
    unless the local Hub cache has it. Raises DatasetUnavailable if there are no files and none can be fetched, and
    InvalidDataset for files of another schema.
    """
    local = Path(place).expanduser()
    if local.is_dir():
        files = sorted(local.rglob("*.parquet"))
        if not files:
            raise DatasetUnavailable(f"dataset: {SYNTHDOG!r}: no parquet files in {place!r}", param="dataset")
        return ParquetPages(files, max_pixels=max_pixels)
    return ParquetPages([_from_hub(place)], max_pixels=max_pixels)


def _from_hub(repo: str) -> Path:
    try:
        from huggingface_hub import snapshot_download

        found = sorted(
            Path(snapshot_download(repo, repo_type="dataset", allow_patterns=[_FIRST_FILE])).glob(_FIRST_FILE)
        )
    except ImportError as error:
        raise DatasetUnavailable(f"dataset: {SYNTHDOG!r} needs huggingface_hub, which is not installed") from error
    except Exception as error:  # the Hub refuses, cannot be reached or does not know the name: there are no pages
        raise DatasetUnavailable(
            f"dataset: {SYNTHDOG!r}: {repo!r} is not in the local Hub cache and cannot be fetched ({error}); "
            f"HEADMAP_SYNTHDOG may name a folder with its parquet files",
            param="dataset",
        ) from error
    if not found:
        raise DatasetUnavailable(f"dataset: {SYNTHDOG!r}: {repo!r} has no file {_FIRST_FILE}", param="dataset")
    return found[0]


class ParquetPages:
    """Pages in rows of parquet files."""

    def __init__(self, files: Sequence[Path], *, max_pixels: int) -> None:
        self._rows = ParquetRows(files, _COLUMNS)
        self._max_pixels = max_pixels

    @property
    def size(self) -> int:
        return len(self._rows)

    def page(self, index: int) -> Page:
        """Raises InvalidDataset, naming the file, the page and the column, for a row that holds no page."""
        file, row = self._rows.row(index)
        return _page(row, f"{file}, page {index}", self._max_pixels)


def _page(row: dict[str, Any], where: str, max_pixels: int) -> Page:
    picture = picture_of(row, where, max_pixels=max_pixels)
    chunks = _chunks(row["2_coord"], f"{where}: column '2_coord'")
    words = [_word(chunk, picture.size, f"{where}: column '2_coord', item {n}") for n, chunk in enumerate(chunks)]
    return Page(picture, tuple(word for word in words if word is not None), ())


def _chunks(value: Any, where: str) -> list[Any]:
    """A row's chunks: a list of structs or, as `datasets` writes a sequence of them, a struct of lists."""
    if isinstance(value, dict):
        texts, coords = value.get("chunk"), value.get("coord")
        if isinstance(texts, list) and isinstance(coords, list) and len(texts) == len(coords):
            return [{"chunk": text, "coord": coord} for text, coord in zip(texts, coords, strict=True)]
    if not isinstance(value, list):
        raise InvalidDataset(f"{where}: must be the page's boxes, a list of 'chunk' and 'coord', not {value!r:.80}")
    return value


def _word(chunk: Any, size: tuple[int, int], where: str) -> Word | None:
    """A chunk as a word, its box in whole pixels within the picture; None if text or box is empty."""
    try:
        text = " ".join(chunk["chunk"].split())
        (xa, ya), (xb, yb) = ((float(x), float(y)) for x, y in chunk["coord"])
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise InvalidDataset(f"{where}: must be a 'chunk' of text and two corners as 'coord', not {chunk!r}") from error
    if not text or not all(math.isfinite(side) for side in (xa, ya, xb, yb)):
        return None
    x0, x1 = max(0, math.floor(min(xa, xb))), min(size[0], math.ceil(max(xa, xb)))
    y0, y1 = max(0, math.floor(min(ya, yb))), min(size[1], math.ceil(max(ya, yb)))
    return Word(text, (x0, y0, x1, y1)) if x0 < x1 and y0 < y1 else None
