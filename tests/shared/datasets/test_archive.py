"""Archives are opened under limits; what is not a plain file at a plain place is refused."""

from __future__ import annotations

import gzip
import io
import random
import struct
import tarfile
import zipfile
from contextlib import suppress

import pytest

from headmap.datasets import archive as rooms
from headmap.datasets.archive import open_archive
from headmap.errors import DatasetTooLarge, InvalidDataset
from tests.shared.datasets.archives import as_tar, as_tar_gz, as_zip, tar_member, zip_link

CONTENT = {"pages.jsonl": b"{}", "0000.png": b"\x89PNG" * 500}
LIMIT = 1_000_000


def look(data: bytes, limit: int = LIMIT) -> dict[str, bytes]:
    with open_archive(io.BytesIO(data), max_bytes=limit) as members:
        assert all(len(members.read(name)) == size for name, size in members.sizes.items())
        return {name: members.read(name) for name in members.sizes}


@pytest.mark.parametrize(
    "data",
    [
        as_zip(CONTENT),
        as_zip(CONTENT, method=zipfile.ZIP_STORED),
        as_tar(CONTENT),
        as_tar(CONTENT, form=tarfile.GNU_FORMAT),
        as_tar(CONTENT, form=tarfile.USTAR_FORMAT),
        as_tar_gz(CONTENT),
        as_tar({f"./{name}": data for name, data in CONTENT.items()}),
    ],
    ids=["zip", "stored zip", "pax", "gnu", "ustar", "tar.gz", "tar with dots"],
)
def test_members_come_out_as_they_went_in(data: bytes) -> None:
    assert look(data) == CONTENT


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("name", ["x" * 180 + ".png", "ページ.png"])
def test_long_and_foreign_names_are_read(name: str, form: int) -> None:
    assert look(as_tar({name: b"1", "after": b"2"}, form=form)) == {name: b"1", "after": b"2"}
    assert look(as_zip({name: b"1"})) == {name: b"1"}


def test_folders_and_what_file_managers_leave_are_passed_over() -> None:
    junk = {"__MACOSX/._0000.png": b"1", "pages/.DS_Store": b"1", "._a": b"1"}
    assert look(as_zip(CONTENT | junk | {"pages/": b""})) == CONTENT
    assert look(as_tar(CONTENT | junk, tar_member("pages", tarfile.DIRTYPE))) == CONTENT


@pytest.mark.parametrize("pack", [as_zip, as_tar, as_tar_gz])
@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../up.png", "a/../../up.png", "a\\..\\up.png", "C:/up.png", "C:up.png"]
)
def test_a_member_outside_the_archive_is_refused(pack: object, name: str) -> None:
    with pytest.raises(InvalidDataset, match="lies outside the archive's own folder"):
        look(pack(CONTENT | {name: b"1"}))  # type: ignore[operator]


@pytest.mark.parametrize(
    "data",
    [
        as_zip(CONTENT, zip_link("link.png", "/etc/passwd")),
        as_tar(CONTENT, tar_member("link.png", tarfile.SYMTYPE, "/etc/passwd")),
        as_tar(CONTENT, tar_member("link.png", tarfile.LNKTYPE, "0000.png")),
        as_tar(CONTENT, tar_member("link.png", tarfile.CHRTYPE)),
        as_tar(CONTENT, tar_member("link.png", tarfile.FIFOTYPE)),
        as_tar(CONTENT, tar_member("link.png", tarfile.GNUTYPE_SPARSE)),
    ],
    ids=["zip link", "link", "hard link", "device", "pipe", "sparse"],
)
def test_what_is_no_plain_file_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidDataset, match=r"'link\.png' is not a plain file"):
        look(data)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_is_there_twice_is_refused() -> None:
    for data in (as_zip(CONTENT, (zipfile.ZipInfo("0000.png"), b"2")), as_tar(CONTENT, tarfile.TarInfo("0000.png"))):
        with pytest.raises(InvalidDataset, match=r"'0000\.png' occurs twice"):
            look(data)


@pytest.mark.parametrize("pack", [as_zip, as_tar_gz])
def test_a_bomb_is_refused_by_what_comes_out(pack: object) -> None:
    bomb = pack({"pages.jsonl": b"{}", "0000.png": bytes(120_000_000)})  # type: ignore[operator]
    assert len(bomb) < 2_000_000
    with pytest.raises(DatasetTooLarge, match="more than 1000000 bytes when unpacked"):
        look(bomb)


def test_a_gzip_bomb_is_no_longer_unpacked_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "MAX_MEMBERS", 10)
    read = 0

    class Counting(gzip.GzipFile):
        def read(self, size: int | None = -1) -> bytes:
            nonlocal read
            data = super().read(size)
            read += len(data)
            return data

    monkeypatch.setattr(gzip, "GzipFile", Counting)
    with pytest.raises(DatasetTooLarge):
        look(gzip.compress(bytes(100_000_000), 1))
    assert read < 5_000_000


def test_a_zip_that_says_less_than_it_holds_gives_no_more() -> None:
    """The size in the directory is what is counted; the library reads no further, and the checksum then fails."""
    data = bytearray(as_zip({"0000.png": bytes(500_000)}))
    entry = data.rfind(b"PK\x01\x02")
    data[entry + 24 : entry + 28] = (100).to_bytes(4, "little")
    with open_archive(io.BytesIO(bytes(data)), max_bytes=1000) as members:
        assert members.sizes == {"0000.png": 100}
        with pytest.raises(InvalidDataset, match=r"'0000\.png' is broken"):
            members.read("0000.png")


def test_too_many_members_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "_MAX_ENTRIES", 10)
    with pytest.raises(InvalidDataset, match="members"):
        look(as_tar({str(number): b"" for number in range(20)}))


def test_a_directory_too_large_to_read_is_refused_before_it_is_read() -> None:
    data = bytearray(as_zip(CONTENT))
    end = data.rfind(b"PK\x05\x06")
    data[end + 12 : end + 16] = (2**31).to_bytes(4, "little")
    with pytest.raises(InvalidDataset, match="members"):
        look(bytes(data))


def test_zip64_is_refused() -> None:
    data = as_zip(CONTENT)
    end = data.rfind(b"PK\x05\x06")
    locator = b"PK\x06\x07" + bytes(16)
    with pytest.raises(InvalidDataset, match="zip64"):
        look(data[:end] + locator + data[end:])


def test_an_encrypted_member_is_refused() -> None:
    data = bytearray(as_zip(CONTENT))
    entry = data.find(b"PK\x01\x02")
    data[entry + 8] |= 1
    with pytest.raises(InvalidDataset, match="is encrypted"):
        look(bytes(data))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused(method: int) -> None:
    with pytest.raises(InvalidDataset, match="a method other than deflate"):
        look(as_zip(CONTENT, method=method))


def test_an_extended_header_of_any_size_is_not_read() -> None:
    huge = tar_member("x", tarfile.GNUTYPE_LONGNAME)
    huge.size = 200_000
    with pytest.raises(InvalidDataset, match="an extended header has 200000 bytes"):
        look(as_tar(CONTENT, huge))


def test_an_extended_header_may_not_tell_another_size() -> None:
    info = tarfile.TarInfo("0000.png")
    info.pax_headers = {"size": "100000"}
    with pytest.raises(InvalidDataset, match="sizes in extended headers are not supported"):
        look(as_tar({}, info))


@pytest.mark.parametrize("data", [b"", b"PK", b"hello", b"\x1f\x8bnot gzip", b"[]" * 400, bytes(10_240)])
def test_what_is_no_archive_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidDataset, match="archive: "):
        look(data)


@pytest.mark.parametrize("whole", [as_zip(CONTENT), as_tar(CONTENT), as_tar_gz(CONTENT)], ids=["zip", "tar", "tar.gz"])
def test_damage_is_refused_or_read_but_never_another_error(whole: bytes) -> None:
    chance = random.Random(1)
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        with suppress(InvalidDataset, DatasetTooLarge):
            look(bytes(data[: chance.randint(1, len(data))] if chance.random() < 0.3 else data))


def test_a_zip_is_refused_by_its_directory_before_the_library_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms.zipfile, "ZipFile", None)
    entry = rooms._ENTRY.pack(b"PK\x01\x02", 1, 0, 0) + b"a"
    count = rooms._MAX_ENTRIES + 1

    def ended(directory: bytes, told: int) -> bytes:
        return b"PK" + directory + struct.pack("<4s4xHHIIH", b"PK\x05\x06", told, told, len(directory), 2, 0)

    with pytest.raises(InvalidDataset, match="more than 100001 members"):
        look(ended(entry * count, count % 65536))
    with pytest.raises(InvalidDataset, match="tells of 7 members and has 8"):
        look(ended(entry * 8, 7))
    with pytest.raises(InvalidDataset, match="directory is broken"):
        look(ended(entry * 8 + b"PK", 8))
    long = rooms._ENTRY.pack(b"PK\x01\x02", 2000, 0, 0) + b"a" * 2000
    with pytest.raises(InvalidDataset, match="name of 2000 bytes"):
        look(ended(long, 1))


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_a_long_name_in_a_tar_is_refused(form: int) -> None:
    with pytest.raises(InvalidDataset, match="name of 2000 characters"):
        look(as_tar({"x" * 2000: b"1"}, form=form))
