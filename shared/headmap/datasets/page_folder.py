"""Pages as a folder: the pictures and `pages.jsonl`, one record a line, as `headmap pages` writes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from headmap.datasets.pictures import MAX_PIXELS, page_picture
from headmap.datasets.records import INDEX_FILE, PageRecord, read_records
from headmap.errors import InvalidDataset
from headmap.scoring.pages import Page


def write_pages(
    out: Path, count: int, make: Callable[[int], Page], on_page: Callable[[int], None] | None = None
) -> None:
    """Write the pages `make(0)` to `make(count - 1)` as `NNNN.png` and `pages.jsonl`.

    `on_page` is called after each page with the number of pages written so far. Raises ValueError for a count below 1.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, not {count}")
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    with (out / INDEX_FILE).open("w", encoding="utf-8") as lines:
        for index in range(count):
            page = make(index)
            name = f"{index:04d}.png"
            page.image.save(out / name)
            lines.write(PageRecord.of(page, name).to_json() + "\n")
            if on_page is not None:
                on_page(index + 1)


class PageFolder:
    """Opens such a folder: all records are checked at once, a picture when its page is asked for.

    Raises InvalidDataset, naming the file, the line and the field that is missing or wrong.
    """

    def __init__(self, folder: Path, *, max_pixels: int = MAX_PIXELS) -> None:
        self._folder = Path(folder)
        self._max_pixels = max_pixels
        index = self._folder / INDEX_FILE
        if not index.is_file():
            raise InvalidDataset(f"{index}: no such file")
        with index.open("rb") as lines:
            self._records = list(read_records(lines, str(index)))

    @property
    def size(self) -> int:
        return len(self._records)

    def page(self, number: int) -> Page:
        """Raises the same errors as opening the folder."""
        where, record = self._records[number]
        path = self._folder / record.file
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InvalidDataset(f"{where}: field 'file': cannot read {record.file!r} ({error})") from error
        image = page_picture(
            data, f"{where}: {record.file}", max_pixels=self._max_pixels, size=(record.width, record.height)
        )
        return Page(image, record.words, record.questions)

    def __iter__(self) -> Iterator[Page]:
        return (self.page(number) for number in range(self.size))
