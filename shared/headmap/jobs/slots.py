"""A worker's slot: its number among the workers of its host. It identifies the leases of the slot's former worker.

A killed worker cannot hand its leases back, and they would expire only minutes later. Its successor on the host takes
the same slot and ends these leases at once. A slot becomes free only when its process has ended or left it.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import socket
import uuid
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir

from headmap.errors import RegistryUnavailable
from headmap.jobs.sweeper import take_back_from
from headmap.registry.session import Database
from headmap.settings import Settings

logger = logging.getLogger(__name__)

_MOST = 256


@dataclass(frozen=True)
class Slot:
    """A slot that the process and its forked children hold until they leave it or all have ended."""

    place: str | None
    """`host:number:`; None where no lock can be had, so that nobody's former self is known."""
    name: str
    """Of this holder alone; owners of leases begin with it."""
    lock: int | None = None
    """The descriptor of the locked file."""

    def end_former_leases(self, database: Database, settings: Settings) -> None:
        """End the attempts of earlier holders. Each counts as a failure: its shard may be what killed the worker."""
        if self.place is None:
            return
        try:
            ended = take_back_from(database, settings, self.place, but=self.name)
        except RegistryUnavailable as error:
            logger.warning("leases of this worker's former self run out by themselves: %s", error)
        else:
            if ended:
                logger.warning("%d shards of this worker's former self are due again", ended)

    def leave(self) -> None:
        """Leave the slot. Call it once, after all leases have ended."""
        if self.lock is not None:
            os.close(self.lock)


def take_slot(settings: Settings) -> Slot:
    """Take the lowest free slot among the registry's workers on this host."""
    host, mine = socket.gethostname(), uuid.uuid4().hex[:8]
    registry = hashlib.sha256(settings.sql_url.render_as_string(hide_password=True).encode()).hexdigest()[:16]
    for number in range(_MOST):
        file = _locked(Path(gettempdir()) / f"headmap-{registry}-{number}.lock")
        if file is not None:
            place = f"{host}:{number}:"
            return Slot(place, f"{place}{mine}", file)
    logger.warning("no lock can be had in %s: this worker's leases outlive a crash until they run out", gettempdir())
    return Slot(None, f"{host}:-:{mine}")


def _locked(path: Path) -> int | None:
    """Open and lock the file; None if another process holds the lock or another user owns the file."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        return None
    return file
