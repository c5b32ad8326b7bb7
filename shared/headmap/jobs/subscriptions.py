"""Which queues a worker takes shards from: those of the models that its host has, less those that do not work there."""

from __future__ import annotations

import json
import logging
import os
import select
import time
from collections.abc import Callable

from headmap.jobs.queues import PREFIX, JobQueue, device_kind
from headmap.models import models_here
from headmap.settings import Settings

logger = logging.getLogger(__name__)

FindModels = Callable[[Settings], set[tuple[str, str]]]
"""Finds the models that a host has, as (name, revision)."""

_LOOK_SECONDS = 60.0
"""Between two looks for models: their files may come and go while the worker runs."""

_PAUSE_SECONDS, _MAX_PAUSE_SECONDS = 60.0, 3600.0


class Subscriptions:
    """Make it before the worker forks: children call `pause`, and the main process asks for `queues`.

    A pause ends after a minute, because what was missing may be there by then. Each further one is twice as long, up to
    an hour.
    """

    def __init__(self, settings: Settings, find_models: FindModels = models_here) -> None:
        self.device = device_kind(settings)
        self._settings, self._find = settings, find_models
        self._models: set[tuple[str, str]] = set()
        self._looked_at = float("-inf")
        self._pauses: dict[tuple[str, str], tuple[float, float]] = {}
        """By model: the time at which its pause ends, and the seconds it takes."""
        self._reader, self._writer = os.pipe()

    def pause(self, model: str, revision: str) -> None:
        """Take no shards of a model for a while. Any process of the worker may call it."""
        os.write(self._writer, json.dumps([model, revision]).encode() + b"\n")  # whole, below PIPE_BUF

    def wake(self) -> None:
        """Let `wait` return."""
        os.write(self._writer, b"\n")

    def wait(self, seconds: float) -> None:
        """Wait for up to `seconds` until somebody calls `pause` or `wake`."""
        if not select.select([self._reader], [], [], seconds)[0]:
            return
        for line in os.read(self._reader, select.PIPE_BUF * 16).splitlines():
            if line:
                model, revision = json.loads(line)
                self._begin_pause((model, revision))

    def models(self) -> set[tuple[str, str]]:
        """The models that the worker takes shards of, as (name, revision)."""
        now = time.monotonic()
        if now - self._looked_at > _LOOK_SECONDS:
            self._models, self._looked_at = self._find(self._settings), now
        return {model for model in self._models if self._pauses.get(model, (0.0, 0.0))[0] <= now}

    def queues(self) -> set[str]:
        """Names of the queues to take from. PREFIX alone is the queue of earlier versions."""
        kinds = (None, self.device)
        return {PREFIX} | {JobQueue(*model, device).name for model in self.models() for device in kinds}

    def close(self) -> None:
        os.close(self._reader)
        os.close(self._writer)

    def _begin_pause(self, model: tuple[str, str]) -> None:
        now = time.monotonic()
        until, seconds = self._pauses.get(model, (float("-inf"), 0.0))
        if now < until:
            return
        soon = now < until + seconds
        seconds = min(2 * seconds, _MAX_PAUSE_SECONDS) if soon else _PAUSE_SECONDS
        self._pauses[model] = (now + seconds, seconds)
        logger.warning("this worker takes no shards of %s at %s for %.0f s", *model, seconds)
