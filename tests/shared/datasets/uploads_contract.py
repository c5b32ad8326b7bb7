"""Uploads, removals, clean-ups and moves of datasets' pages, at once and cut off, on whatever database."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import delete, func, select, update

from headmap.blobs.folder import FolderStore
from headmap.blobs.location import open_blobs
from headmap.blobs.store import BlobStore, checksum_of
from headmap.datasets import packs
from headmap.datasets.checking import Upload
from headmap.datasets.moving import bring_back, move_pages
from headmap.datasets.packs import framed
from headmap.datasets.sources import PageSource, open_dataset
from headmap.datasets.upkeep import check_store, clear_after_removal, clear_orphans
from headmap.datasets.uploads import file_upload
from headmap.errors import DatasetNotFound, DatasetUnavailable, RegistryUnavailable
from headmap.jobs.submit import write_job
from headmap.registry.blobs import clear_blob, write_blob
from headmap.registry.datasets import remove_dataset
from headmap.registry.job_params import JobParams
from headmap.registry.jobs import cancel_job
from headmap.registry.migrations import migrate, scripts_folder
from headmap.registry.session import Database
from headmap.registry.tables import Blob, Dataset, DatasetPack, DatasetPage
from headmap.settings import Settings
from tests.shared.datasets.archives import files
from tests.shared.jobs.fakes import INFO
from tests.shared.jobs.steps import PARAMS

LATER = datetime.now(UTC) + timedelta(days=1)
PAGES = 5


def rows() -> list[tuple[str, bytes]]:
    content = files(PAGES)
    lines = content["pages.jsonl"].decode().splitlines()
    return [(line, content[f"{number:04d}.png"]) for number, line in enumerate(lines)]


def upload() -> Upload:
    """Checked pages, so small that with PACK_BYTES of two of them they make three packs."""
    content = b"".join(part for line, picture in rows() for part in framed(line.encode(), picture))
    size = sum(len(line.encode()) + len(picture) for line, picture in rows())
    return Upload(PAGES, 9, 1, size, hashlib.sha256(content).hexdigest(), lambda: iter(rows()))


def add(database: Database, blobs: BlobStore, name: str = "mine") -> bool:
    return file_upload(database, blobs, name, upload())[1]


def remove(database: Database, blobs: BlobStore, name: str = "mine") -> None:
    with database.write() as session:
        removed = remove_dataset(session, name)
    clear_after_removal(database, blobs, removed)


def names(blobs: BlobStore) -> set[str]:
    return {one.name for one in blobs.stored()}


def count(database: Database, table: type[Blob | Dataset | DatasetPack | DatasetPage]) -> int:
    with database.read() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def words(source: PageSource) -> list[object]:
    return [page.words for page in source.pages(0, 0, PAGES)]


def grow_old(database: Database, blobs: BlobStore) -> None:
    """Let all that lies in the store be of the day before yesterday."""
    old = datetime.now(UTC) - timedelta(days=2)
    with database.write() as session:
        session.execute(update(Blob).values(claimed_at=old))
    for path in Path(blobs.place).glob("*/*"):
        os.utime(path, (old.timestamp(), old.timestamp()))


def into_registry(database: Database) -> None:
    """Put the pages of the dataset `mine` where an older release had them."""
    with database.write() as session:
        dataset_id = session.scalar(select(Dataset.id).where(Dataset.name == "mine"))
        session.execute(delete(DatasetPack))
        for number, (record, picture) in enumerate(rows()):
            session.add(DatasetPage(dataset_id=dataset_id, number=number, record=record, picture=picture))


def before_blobs() -> str:
    """The last migration of releases without a blob store."""
    script = ScriptDirectory(str(scripts_folder())).get_revision("20261129_blobs")
    assert isinstance(script.down_revision, str)
    return script.down_revision


def killed_in_the_middle(settings: Settings) -> None:
    """An upload in a process of its own, killed once its first blobs are written."""
    body = """
import time
from headmap.blobs.location import open_blobs
from headmap.datasets import packs
from headmap.datasets.checking import Upload
from headmap.datasets.uploads import file_upload
from headmap.registry.session import open_database
from headmap.settings import Settings
packs.PACK_BYTES = 1
def rows():
    for number in range(3):
        yield "{}", bytes([number])
    print("half", flush=True)
    time.sleep(60)
settings = Settings()
file_upload(open_database(settings), open_blobs(settings), "mine", Upload(9, 9, 9, 9, "c" * 64, rows))
"""
    variables = {"HEADMAP_DATA_DIR": str(settings.data_dir), "PYTHONPATH": os.pathsep.join(sys.path)}
    if settings.database_url is not None:
        variables["HEADMAP_DATABASE_URL"] = settings.database_url
    started = subprocess.Popen([sys.executable, "-c", body], env=os.environ | variables, stdout=subprocess.PIPE)
    assert started.stdout is not None
    assert started.stdout.readline() == b"half\n"
    started.send_signal(signal.SIGKILL)
    started.communicate()


class FailingStore(FolderStore):
    """Fails from its second write on, until it is told not to."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.writes, self.fails = 0, True

    def write(self, checksum: str, data: bytes) -> None:
        self.writes += 1
        if self.fails and self.writes > 1:
            raise DatasetUnavailable("the blob store is away")
        super().write(checksum, data)


class ClearedStore(FolderStore):
    """A store where another process clears the first blob away as soon as it is written."""

    def __init__(self, folder: Path, database: Database, *, claimed_again: bool) -> None:
        super().__init__(folder)
        self._database, self._claimed_again = database, claimed_again
        self.writes = 0

    def write(self, checksum: str, data: bytes) -> None:
        super().write(checksum, data)
        self.writes += 1
        if self.writes == 1:
            assert clear_blob(self._database, FolderStore(Path(self.place)), checksum, claimed_before=LATER)
            if self._claimed_again:  # by an upload that breaks off before it writes
                write_blob(self._database, _Nothing(Path(self.place)), data)


class _Nothing(FolderStore):
    def write(self, checksum: str, data: bytes) -> None:
        pass


class UploadContract:
    @pytest.fixture(autouse=True)
    def _small_packs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        page = rows()[0]
        monkeypatch.setattr(packs, "PACK_BYTES", len(page[0]) + len(page[1]) + 100)

    @pytest.fixture
    def blobs(self, settings: Settings) -> BlobStore:
        return open_blobs(settings)

    def test_packs_in_turn_are_the_bytes_of_the_checksum(self, database: Database, blobs: BlobStore) -> None:
        assert add(database, blobs)
        assert 1 < count(database, DatasetPack) < PAGES
        with database.read() as session:
            query = select(Blob.checksum).join(DatasetPack, DatasetPack.blob_id == Blob.id).order_by(DatasetPack.first)
            whole = b"".join(blobs.read(checksum) for checksum in session.scalars(query))
        assert checksum_of(whole) == upload().checksum
        assert count(database, DatasetPage) == 0

    def test_equal_uploads_at_once_are_one_dataset(self, database: Database, blobs: BlobStore) -> None:
        with ThreadPoolExecutor(4) as pool:
            created = list(pool.map(lambda _: add(database, blobs), range(4)))
        assert created.count(True) == 1
        assert len(names(blobs)) == count(database, Blob) == count(database, DatasetPack)

    def test_datasets_share_blobs_which_go_with_the_last(
        self, database: Database, blobs: BlobStore, settings: Settings
    ) -> None:
        with ThreadPoolExecutor(3) as pool:
            assert all(pool.map(lambda name: add(database, blobs, name), ("one", "two", "three")))
        assert len(names(blobs)) == count(database, Blob) == count(database, DatasetPack) // 3
        remove(database, blobs, "one")
        remove(database, blobs, "three")
        assert words(open_dataset("two", settings, database=database))
        remove(database, blobs, "two")
        assert (names(blobs), count(database, Blob)) == (set(), 0)

    def test_uploads_and_removals_at_once_lose_nothing(
        self, database: Database, blobs: BlobStore, settings: Settings
    ) -> None:
        def come_and_go(name: str) -> None:
            for _ in range(4):
                add(database, blobs, name)
                remove(database, blobs, name)
            add(database, blobs, name)

        with ThreadPoolExecutor(3) as pool:
            list(pool.map(come_and_go, ("one", "two", "three")))
        for name in ("one", "two", "three"):
            assert words(open_dataset(name, settings, database=database))
        assert check_store(database, blobs, read=True).missing == {}

    @pytest.mark.parametrize("claimed_again", [False, True])
    def test_an_upload_whose_blob_is_cleared_away_writes_it_again(
        self, database: Database, settings: Settings, claimed_again: bool
    ) -> None:
        store = ClearedStore(settings.data_dir / "blobs", database, claimed_again=claimed_again)
        assert add(database, store)
        assert store.writes == 2 * count(database, DatasetPack)
        assert words(open_dataset("mine", settings, database=database))

    def test_a_blob_in_use_or_just_claimed_is_not_cleared_away(self, database: Database, blobs: BlobStore) -> None:
        add(database, blobs)
        before = names(blobs)
        assert not any(clear_blob(database, blobs, name, claimed_before=LATER) for name in before)
        with database.write() as session:
            remove_dataset(session, "mine")
        long_ago = datetime.now(UTC) - timedelta(hours=1)
        assert not any(clear_blob(database, blobs, name, claimed_before=long_ago) for name in before)
        assert names(blobs) == before

    def test_a_kill_in_the_middle_leaves_nothing_that_is_seen(
        self, database: Database, blobs: BlobStore, settings: Settings
    ) -> None:
        killed_in_the_middle(settings)
        assert count(database, Dataset) == count(database, DatasetPack) == 0
        assert len(names(blobs)) == 3
        assert check_store(database, blobs).orphans == [], "it may be going on"
        grow_old(database, blobs)
        report = check_store(database, blobs)
        assert {one.name for one in report.orphans} == names(blobs)
        assert clear_orphans(database, blobs, report.orphans) == 3
        assert (names(blobs), count(database, Blob)) == (set(), 0)

    def test_a_removal_clears_what_broken_uploads_left(
        self, database: Database, blobs: BlobStore, settings: Settings
    ) -> None:
        store = FailingStore(settings.data_dir / "blobs")
        with pytest.raises(DatasetUnavailable, match="away"):
            add(database, store)
        assert (count(database, Dataset), len(names(blobs))) == (0, 1)
        grow_old(database, blobs)
        clear_after_removal(database, blobs, [])
        assert (names(blobs), count(database, Blob)) == (set(), 0)

    def test_a_store_that_the_registry_does_not_know_is_cleared_when_asked(
        self, database: Database, blobs: BlobStore, settings: Settings
    ) -> None:
        add(database, blobs)
        ours = names(blobs)
        leftover = f"{'0' * 64}.{'0' * 32}"
        for name, data in ((checksum_of(b"of an older backup"), b"of an older backup"), (leftover, b"cut off")):
            path = Path(blobs.place) / name[:2] / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        grow_old(database, blobs)
        report = check_store(database, blobs, read=True)
        assert (len(report.orphans), report.missing, report.damaged) == (2, {}, {})
        assert clear_orphans(database, blobs, report.orphans) == 2
        assert names(blobs) == ours

    def test_missing_and_damaged_blobs_are_told(self, database: Database, blobs: BlobStore, settings: Settings) -> None:
        add(database, blobs)
        source = open_dataset("mine", settings, database=database)
        missing, damaged = list(names(blobs))[:2]
        blobs.delete(missing)
        (Path(blobs.place) / damaged[:2] / damaged).write_bytes(b"other")
        report = check_store(database, blobs, read=True)
        assert (report.missing, report.damaged) == ({"mine": [missing]}, {"mine": [damaged]})
        with pytest.raises(DatasetUnavailable, match=rf"dataset 'mine', page \d: blob ({missing}|{damaged})"):
            words(source)
        assert add(database, blobs, "other"), "the same pages again mend them"
        assert words(source)
        with database.write() as session:
            session.execute(delete(Dataset))
        for name in names(blobs):
            blobs.delete(name)
        with pytest.raises(DatasetNotFound):
            words(open_dataset("mine", settings, database=database))

    def test_a_dataset_removed_under_a_reader_is_not_found(
        self, database: Database, blobs: BlobStore, settings: Settings
    ) -> None:
        add(database, blobs)
        pages = open_dataset("mine", settings, database=database).pages(0, 0, PAGES)
        next(pages)
        remove(database, blobs)
        with pytest.raises(DatasetNotFound, match="'mine'"):
            list(pages)


class MoveContract:
    """Pages that an older release left in the registry."""

    @pytest.fixture(autouse=True)
    def _small_packs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        page = rows()[0]
        monkeypatch.setattr(packs, "PACK_BYTES", len(page[0]) + len(page[1]) + 100)

    @pytest.fixture
    def left(self, database: Database, settings: Settings) -> PageSource:
        """The dataset, opened before its pages are moved."""
        add(database, open_blobs(settings))
        into_registry(database)
        grow_old(database, open_blobs(settings))
        clear_after_removal(database, open_blobs(settings), [])
        assert names(open_blobs(settings)) == set()
        return open_dataset("mine", settings, database=database)

    def test_they_are_read_before_meanwhile_and_after(
        self, database: Database, settings: Settings, left: PageSource, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = words(left)
        store = FailingStore(settings.data_dir / "blobs")
        monkeypatch.setattr("headmap.datasets.moving.open_blobs", lambda _: store)
        with pytest.raises(DatasetUnavailable, match="away"):
            move_pages(database, settings)
        assert 0 < count(database, DatasetPage) < PAGES
        for source in (left, open_dataset("mine", settings, database=database)):
            assert words(source) == before
        store.fails = False
        assert 0 < move_pages(database, settings) < PAGES, "it goes on where it stopped"
        assert (count(database, DatasetPage), move_pages(database, settings)) == (0, 0)
        for source in (left, open_dataset("mine", settings, database=database)):
            assert words(source) == before
        report = check_store(database, store, read=True)
        assert (report.missing, report.damaged) == ({}, {})

    def test_two_who_move_them_at_once_do_it_once(
        self, database: Database, settings: Settings, left: PageSource
    ) -> None:
        before = words(left)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda _: move_pages(database, settings), range(2)))
        move_pages(database, settings)
        assert count(database, DatasetPage) == 0
        assert words(open_dataset("mine", settings, database=database)) == before

    def test_a_dataset_that_a_job_reads_waits(self, database: Database, settings: Settings, left: PageSource) -> None:
        read = {"dataset": "mine", "dataset_checksum": upload().checksum}
        job, _, _ = write_job(database, settings, INFO, JobParams(**{**vars(PARAMS), **read}))
        assert move_pages(database, settings) == 0
        assert count(database, DatasetPage) == PAGES
        with database.write() as session:
            cancel_job(session, job.id)
        assert move_pages(database, settings) == PAGES

    def test_they_come_back_for_an_older_release(
        self, database: Database, settings: Settings, left: PageSource
    ) -> None:
        before = words(left)
        move_pages(database, settings)
        with pytest.raises(RegistryUnavailable, match="--pages-back"):
            migrate(settings, before_blobs())
        assert bring_back(database, settings) == PAGES
        with database.read() as session:
            query = select(DatasetPage.record, DatasetPage.picture).order_by(DatasetPage.number)
            assert [tuple(row) for row in session.execute(query)] == rows()
        assert names(open_blobs(settings)) == set()
        database.close()
        migrate(settings, before_blobs())
        migrate(settings)
        assert move_pages(database, settings) == PAGES
        assert words(open_dataset("mine", settings, database=database)) == before
