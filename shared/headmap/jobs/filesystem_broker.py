"""The embedded broker: kombu's `filesystem` transport with writes that readers cannot see half done.

kombu's own transport writes into the queue's folder, where a consumer may pick up an empty file, and moves messages
that it reads through the system's temporary folder. Here a message is written aside and renamed in, and everything
stays in the data directory. A message taken by a worker that dies is gone; the sweeper of `sweeper.py` sends another.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from pathlib import Path
from queue import Empty
from typing import Any

from kombu.transport import filesystem

from headmap.settings import Settings


def transport_options(settings: Settings) -> dict[str, Any]:
    """Options of the transport, and its folders made, under the settings' data directory."""
    root = settings.data_dir / "broker"
    folders = {name: root / name for name in ("queue", "taken", "control")}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    return {
        "data_folder_in": str(folders["queue"]),
        "data_folder_out": str(folders["queue"]),
        "processed_folder": str(folders["taken"]),
        "control_folder": str(folders["control"]),
        "polling_interval": 0.2,
    }


class Channel(filesystem.Channel):
    def _put(self, queue: str, payload: dict[str, Any], **kwargs: Any) -> None:  # type: ignore[override]  # as kombu's
        name = f"{time.time_ns():020d}_{uuid.uuid4().hex}.{queue}.msg"
        aside = Path(self.processed_folder) / f"{name}.new"
        aside.write_text(json.dumps(payload), encoding="utf-8")
        aside.replace(Path(self.data_folder_out) / name)

    def _get(self, queue: str, timeout: float | None = None) -> dict[str, Any]:
        for name in sorted(os.listdir(self.data_folder_in)):
            if name.partition(".")[2] != f"{queue}.msg":
                continue
            taken = Path(self.processed_folder) / name
            try:
                (Path(self.data_folder_in) / name).rename(taken)
            except FileNotFoundError:
                continue  # another worker was faster
            text = taken.read_text(encoding="utf-8")
            taken.unlink()
            message: dict[str, Any] = json.loads(text)
            return message
        raise Empty


class Transport(filesystem.Transport):
    Channel = Channel
