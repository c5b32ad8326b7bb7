"""What every blob store promises, and what happens when it is away."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from headmap.blobs.cache import CachedStore
from headmap.blobs.folder import FolderStore
from headmap.blobs.location import open_blobs
from headmap.blobs.s3 import S3Store
from headmap.blobs.store import BlobStore, checksum_of
from headmap.errors import DatasetUnavailable
from headmap.settings import Settings
from tests.shared.blobs.s3_server import S3Server, nobody, speak_to

DATA = os.urandom(100_000)
NAME = checksum_of(DATA)
Put = Callable[[str, bytes], None]


@pytest.fixture(params=["folder", "s3", "cached"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    if request.param == "folder":
        return FolderStore(tmp_path / "blobs")
    objects = S3Store(f"{request.getfixturevalue('bucket')}/some/where")
    return objects if request.param == "s3" else CachedStore(objects, tmp_path / "cache", 2**20)


@pytest.fixture
def put(store: BlobStore, request: pytest.FixtureRequest) -> Put:
    """Puts bytes where a blob lies, without any store's help."""

    def put_file(name: str, data: bytes) -> None:
        path = Path(store.place) / name[:2] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def put_object(name: str, data: bytes) -> None:
        bucket, _, prefix = store.place.removeprefix("s3://").partition("/")
        server: S3Server = request.getfixturevalue("s3_server")
        server.client.put_object(Bucket=bucket, Key=f"{prefix}/{name[:2]}/{name}", Body=data)

    return put_file if isinstance(store, FolderStore) else put_object


def test_a_blob_comes_back_until_it_is_deleted(store: BlobStore) -> None:
    assert list(store.stored()) == []
    for _ in range(2):
        store.write(NAME, DATA)
        assert store.read(NAME) == DATA
    (one,) = store.stored()
    assert (one.name, one.bytes) == (NAME, len(DATA))
    assert abs(datetime.now(UTC) - one.written_at) < timedelta(minutes=1)
    for _ in range(2):
        store.delete(NAME)
        assert list(store.stored()) == []


def test_a_missing_blob_is_named(store: BlobStore) -> None:
    for _ in range(2):
        with pytest.raises(DatasetUnavailable, match=f"blob {NAME} is missing in .*"):
            store.read(NAME)
        store.write(checksum_of(b"other"), b"other")


@pytest.mark.parametrize("damaged", [b"", DATA[:-1], b"x" + DATA[1:]], ids=["empty", "cut short", "one byte"])
def test_a_damaged_blob_is_named_and_mended_by_writing_it(store: BlobStore, put: Put, damaged: bytes) -> None:
    put(NAME, damaged)
    with pytest.raises(DatasetUnavailable, match=f"blob {NAME} .* is damaged"):
        store.read(NAME)
    store.write(NAME, DATA)
    assert store.read(NAME) == DATA


def test_what_is_no_blob_is_passed_over(store: BlobStore, put: Put) -> None:
    put("readme.txt", b"mine")
    put(NAME[:-1], b"mine")
    assert list(store.stored()) == []


# ---- a folder


def test_those_who_write_the_same_at_once_disturb_nobody(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)

    def write_and_read(_: int) -> bytes:
        store.write(NAME, DATA)
        return store.read(NAME)

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(write_and_read, range(12))) == {DATA}
    assert [one.name for one in store.stored()] == [NAME]


def test_a_writer_that_fails_leaves_nothing_under_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FolderStore(tmp_path)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DatasetUnavailable, match="No space left"):
        store.write(NAME, DATA)
    assert list(store.stored()) == []


def test_what_a_killed_writer_left_is_listed_and_can_be_deleted(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    leftover = f"{NAME}.{'0' * 32}"
    (tmp_path / NAME[:2]).mkdir()
    (tmp_path / NAME[:2] / leftover).write_bytes(DATA[:10])
    assert [one.name for one in store.stored()] == [leftover]
    store.delete(leftover)
    assert list(store.stored()) == []


def test_a_folder_that_cannot_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    store = FolderStore(tmp_path / "file" / "blobs")
    for use in (lambda: store.write(NAME, DATA), lambda: store.read(NAME)):
        with pytest.raises(DatasetUnavailable, match="does not answer"):
            use()


# ---- S3 that does not do as it should


def uses(store: S3Store) -> list[Callable[[], object]]:
    return [
        lambda: store.write(NAME, DATA),
        lambda: store.read(NAME),
        lambda: store.delete(NAME),
        lambda: list(store.stored()),
    ]


@pytest.mark.usefixtures("no_clients")
def test_a_server_away_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    speak_to(nobody(), monkeypatch)
    for use in uses(S3Store("bucket/some")):
        with pytest.raises(DatasetUnavailable, match="s3://bucket/some does not answer: Could not connect"):
            use()


def test_a_missing_bucket_is_told(bucket: str) -> None:
    for use in uses(S3Store("no-such-bucket")):
        with pytest.raises(DatasetUnavailable, match="bucket does not exist"):
            use()


def test_wrong_credentials_are_told_without_them(bucket: str, s3_server: S3Server) -> None:
    s3_server.ask_for_keys(True)
    try:
        for use in uses(S3Store(bucket)):
            with pytest.raises(DatasetUnavailable, match="does not answer"):
                use()
    finally:
        s3_server.ask_for_keys(False)


@pytest.mark.usefixtures("no_clients")
def test_no_credentials_are_told(bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(DatasetUnavailable, match="Unable to locate credentials"):
        S3Store(bucket).read(NAME)


@pytest.mark.usefixtures("no_clients")
def test_a_server_that_never_answers_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        speak_to(f"http://127.0.0.1:{silent.getsockname()[1]}", monkeypatch)
        store = S3Store("bucket", seconds=0.3)
        for use in (lambda: store.write(NAME, DATA), lambda: store.read(NAME)):
            with pytest.raises(DatasetUnavailable, match="does not answer"):
                use()


# ---- the cache


def test_reads_come_from_the_cache_and_damaged_copies_from_the_store(tmp_path: Path) -> None:
    inner = FolderStore(tmp_path / "blobs")
    store = CachedStore(inner, tmp_path / "cache", 10**6)
    store.write(NAME, DATA)
    assert store.read(NAME) == DATA
    copy = tmp_path / "cache" / NAME
    copy.write_bytes(b"damaged")
    assert store.read(NAME) == DATA
    assert copy.read_bytes() == DATA
    inner.delete(NAME)
    assert store.read(NAME) == DATA


def test_the_cache_keeps_its_bound_and_what_was_read_last(tmp_path: Path) -> None:
    inner = FolderStore(tmp_path / "blobs")
    store = CachedStore(inner, tmp_path / "cache", 250)
    blobs = [bytes([number]) * 100 for number in range(4)]
    names = [checksum_of(blob) for blob in blobs]
    for name, blob in zip(names, blobs, strict=True):
        inner.write(name, blob)

    def cached() -> set[int]:
        return {names.index(path.name) for path in (tmp_path / "cache").iterdir()}

    for number, kept in ((0, {0}), (1, {0, 1}), (0, {0, 1}), (2, {0, 2}), (3, {2, 3})):
        store.read(names[number])
        assert cached() == kept
        time.sleep(0.01)  # so that times of files differ
    large = bytes(300)
    inner.write(checksum_of(large), large)
    assert store.read(checksum_of(large)) == large
    assert cached() == {2, 3}, "what is larger than the cache drives nothing out"


def test_without_a_disk_for_the_cache_reads_go_on(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    store = CachedStore(FolderStore(tmp_path / "blobs"), tmp_path / "file" / "cache", 10**6)
    store.write(NAME, DATA)
    assert store.read(NAME) == DATA


def test_threads_that_share_a_full_cache_read_what_they_asked_for(tmp_path: Path) -> None:
    inner = FolderStore(tmp_path / "blobs")
    blobs = {checksum_of(bytes([number]) * 1000): bytes([number]) * 1000 for number in range(8)}
    for name, blob in blobs.items():
        inner.write(name, blob)
    store = CachedStore(inner, tmp_path / "cache", 3000)
    barrier = threading.Barrier(4)

    def read_all(_: int) -> bool:
        barrier.wait()
        return all(store.read(name) == blob for _ in range(5) for name, blob in blobs.items())

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read_all, range(4)))


# ---- the setting


def test_the_settings_choose_the_store(tmp_path: Path, bucket: str) -> None:
    def opened(url: str | None, **fields: int) -> BlobStore:
        return open_blobs(Settings(data_dir=tmp_path, blob_url=url, **fields))

    assert opened(None).place == str(tmp_path / "blobs")
    assert opened("file:///some/wh%20ere").place == "/some/wh ere"
    cached, plain = opened(f"s3://{bucket}/a/b/"), opened(f"s3://{bucket}", blob_cache_bytes=0)
    assert (cached.place, plain.place) == (f"s3://{bucket}/a/b", f"s3://{bucket}")
    assert (type(cached), type(plain)) == (CachedStore, S3Store)
    cached.write(NAME, DATA)
    cached.read(NAME)
    assert (tmp_path / "blob-cache" / NAME).read_bytes() == DATA


@pytest.mark.parametrize(
    "url", ["blobs", "/blobs", "file://blobs", "file:///", "s3:///prefix", "s3://key:secret@bucket", "gs://bucket"]
)
def test_a_url_that_names_no_store_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="file:///FOLDER or s3://BUCKET/PREFIX"):
        Settings(blob_url=url)


def test_s3_without_its_packages_says_which_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules, "headmap.blobs.s3")
    with pytest.raises(DatasetUnavailable, match=r"headmap\[s3\]"):
        open_blobs(Settings(blob_url="s3://bucket"))
