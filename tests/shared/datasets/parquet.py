"""Small parquet files of the schema that the public set's card gives."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from headmap.scoring.pages import Page, make_page

CHUNKS = pa.list_(pa.struct({"chunk": pa.string(), "coord": pa.list_(pa.list_(pa.float64()))}))
SCHEMA = pa.schema(
    {
        "image": pa.struct({"bytes": pa.binary(), "path": pa.string()}),
        "ground_truth": pa.string(),
        "2_coord": CHUNKS,
        "4_coord": CHUNKS,
        "2_coord_norm": CHUNKS,
        "4_coord_norm": CHUNKS,
    }
)


def row(page: Page) -> dict[str, Any]:
    """A page as a row: JPEG, boxes as floats in four forms."""
    buffer = BytesIO()
    page.image.save(buffer, "JPEG", quality=95)
    width, height = page.image.size
    two, four = [], []
    for word in page.words:
        x0, y0, x1, y1 = (float(side) for side in word.box)
        two.append({"chunk": word.text, "coord": [[x0, y0], [x1, y1]]})
        four.append({"chunk": word.text, "coord": [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]})

    def normed(chunks: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{**chunk, "coord": [[x / width, y / height] for x, y in chunk["coord"]]} for chunk in chunks]

    return {
        "image": {"bytes": buffer.getvalue(), "path": "image_0.jpg"},
        "ground_truth": '{"gt_parse": {"text_sequence": "..."}}',
        "2_coord": two,
        "4_coord": four,
        "2_coord_norm": normed(two),
        "4_coord_norm": normed(four),
    }


def write(file: Path, rows: list[dict[str, Any]], *, group: int = 2) -> Path:
    """Write rows in row groups of `group`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), file, row_group_size=group)
    return file


def write_set(folder: Path, counts: tuple[int, ...] = (5, 3)) -> list[Page]:
    """Files as the Hub has them, with so many pages each; returns the pages in their order."""
    pages = [make_page(40, index) for index in range(sum(counts))]
    left = list(pages)
    for number, count in enumerate(counts):
        name = f"train-{number:05d}-of-{len(counts):05d}.parquet"
        write(folder / "data" / name, [row(page) for page in left[:count]])
        left = left[count:]
    return pages
