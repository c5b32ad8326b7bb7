"""Archives of made-up pages, right and wrong."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

from headmap.datasets.records import PageRecord
from headmap.scoring.pages import Page, make_page

Files = dict[str, bytes]


@cache
def _pages(count: int) -> tuple[tuple[Page, bytes], ...]:
    made = []
    for index in range(count):
        page = make_page(50, index)
        buffer = io.BytesIO()
        page.image.save(buffer, "PNG")
        made.append((page, buffer.getvalue()))
    return tuple(made)


def files(count: int = 2, folder: str = "", **change: Any) -> Files:
    """A folder's files; `change` replaces fields of the first record."""
    found: Files = {}
    lines = []
    for number, (page, picture) in enumerate(_pages(count)):
        name = f"{number:04d}.png"
        record = json.loads(PageRecord.of(page, name).to_json())
        lines.append(json.dumps(record | (change if number == 0 else {})))
        found[folder + name] = picture
    found[folder + "pages.jsonl"] = "\n".join(lines).encode()
    return found


def write_folder(folder: Path, content: Files) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in content.items():
        (folder / name).write_bytes(data)
    return folder


def as_zip(content: Files, *extra: tuple[zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
        for info, data in extra:
            archive.writestr(info, data)
    return buffer.getvalue()


def zip_link(name: str, target: str) -> tuple[zipfile.ZipInfo, bytes]:
    info = zipfile.ZipInfo(name)
    info.create_system = 3
    info.external_attr = 0o120777 << 16
    return info, target.encode()


def as_tar(content: Files, *extra: tarfile.TarInfo, form: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for info in extra:
            archive.addfile(info, io.BytesIO(b"\0" * info.size))
    return buffer.getvalue()


def tar_member(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def as_tar_gz(content: Files) -> bytes:
    return gzip.compress(as_tar(content), 6)
