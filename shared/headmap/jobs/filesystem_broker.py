"""The embedded broker: kombu's `filesystem` transport with atomic writes.

kombu's own transport writes directly into the queue's folder, so a consumer may read an empty file. It also moves
messages through the system's temporary folder. This transport writes a message to another folder and renames it into
the queue, and keeps everything in the data directory. If a worker dies, its message is lost and the sweeper in
`sweeper.py` sends another one. Files in the queue that are not our messages are moved away.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import stat
import time
import uuid
from pathlib import Path
from queue import Empty
from typing import Any

from kombu.transport import filesystem

from headmap.jobs.queue_turns import QueueTurns, TurnCycle
from headmap.settings import Settings

logger = logging.getLogger(__name__)

_LARGEST_MESSAGE = 2**16
"""Bytes; ours have less than a thousand."""


def transport_options(settings: Settings) -> dict[str, Any]:
    """Make the transport's folders in the settings' data directory, and return its options."""
    root = settings.data_dir / "broker"
    folders = {name: root / name for name in ("queue", "taken", "control", "refused")}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    return {
        "data_folder_in": str(folders["queue"]),
        "data_folder_out": str(folders["queue"]),
        "processed_folder": str(folders["taken"]),
        "control_folder": str(folders["control"]),
        "polling_interval": 0.2,
        "turn_seconds": settings.model_turn_seconds,
    }


class Channel(filesystem.Channel):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._turns = QueueTurns(self.transport_options["turn_seconds"])

    def _reset_cycle(self) -> None:
        self._cycle = TurnCycle(self._get, self._active_queues, Empty, self._turns)

    def _put(self, queue: str, payload: dict[str, Any], **kwargs: Any) -> None:  # type: ignore[override]  # as kombu's
        name = f"{time.time_ns():020d}_{uuid.uuid4().hex}.{queue}.msg"
        aside = Path(self.processed_folder) / f"{name}.new"
        aside.write_text(json.dumps(payload), encoding="utf-8")
        aside.replace(Path(self.data_folder_out) / name)

    def _get(self, queue: str, timeout: float | None = None) -> dict[str, Any]:
        try:
            names = sorted(os.listdir(self.data_folder_in))
        except OSError as error:
            raise Empty from error  # the data directory is missing, which readiness reports; it may come back
        for name in names:
            if name.partition(".")[2] != f"{queue}.msg":
                continue
            taken = Path(self.processed_folder) / name
            try:
                (Path(self.data_folder_in) / name).rename(taken)
            except OSError:
                continue  # another worker took it first, or this one has no permission
            try:
                message = _read(taken)
            except (OSError, ValueError, RecursionError) as error:
                refused = taken.parent.with_name("refused") / f"{time.time_ns():020d}_{uuid.uuid4().hex}.msg"
                taken.rename(refused)
                logger.warning("%a in the queue is no message of ours (%s); it is now %s", name, error, refused)
                continue
            taken.unlink()
            return message
        raise Empty

    def get_table(self, exchange: str) -> list[Any]:
        """Return no routes: the default exchange, which we use, needs no table."""
        return []

    def _queue_bind(self, *_: Any) -> None:
        """Write no table: a broken table would keep every worker from starting."""


def _read(path: Path) -> dict[str, Any]:
    """Rebuild the message in a file from the fields that we write: the task, its id and its arguments.

    Raises OSError, and ValueError unless the message is a named task with a job's id and a shard's number.
    """
    about = path.lstat()
    if not stat.S_ISREG(about.st_mode):
        raise ValueError("it is not a plain file")
    if about.st_size > _LARGEST_MESSAGE:
        raise ValueError(f"it has {about.st_size} bytes")
    message = json.loads(path.read_text(encoding="utf-8"))
    headers = _object(message, "headers")
    for where, name in ((message, "body"), (headers, "task"), (headers, "id")):
        if not isinstance(where.get(name), str):
            raise ValueError(f"its {name!r} is missing or no text")
    match json.loads(base64.b64decode(message["body"])):
        case [[str(job_id), int(number)], *_]:
            body = json.dumps([[job_id, number], {}, {}]).encode()
        case _:
            raise ValueError("its body holds no job's id with a shard's number")
    return {
        "body": base64.b64encode(body).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"lang": "py", "task": headers["task"], "id": headers["id"]},
        "properties": {
            "body_encoding": "base64",
            "delivery_tag": headers["id"],
            "delivery_info": {"exchange": "", "routing_key": path.name.partition(".")[2].removesuffix(".msg")},
        },
    }


def _object(value: Any, name: str) -> dict[str, Any]:
    found = value.get(name) if isinstance(value, dict) else None
    if not isinstance(found, dict):
        raise ValueError(f"its {name!r} is missing or no object")
    return found


class Transport(filesystem.Transport):
    Channel = Channel
