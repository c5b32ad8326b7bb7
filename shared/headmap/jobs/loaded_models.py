"""The model that a worker process holds: loaded on first use, and let go once it has been idle for a while."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from headmap.errors import HeadmapError, ModelNotUsable
from headmap.models import find_model
from headmap.settings import Settings

if TYPE_CHECKING:
    from headmap.families.loading import LoadedModel

logger = logging.getLogger(__name__)


class LoadedModels:
    """Holds the model of the last shard, and nothing after `settings.model_idle_seconds` without any use.

    Make one in each process, after its fork. It imports torch with the first model.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._held: LoadedModel | None = None
        self._timer: threading.Timer | None = None

    @contextmanager
    def use(self, name: str, revision: str) -> Iterator[LoadedModel]:
        """Lend a model until the block ends; one borrower at a time. Another model than the last one replaces it.

        The borrower must keep no reference to it. Raises ModelNotUsable if this host cannot run the model,
        UnsupportedModel if no host can.
        """
        with self._lock:
            self._stop_timer()
            try:
                yield self._load(name, revision)
            finally:
                self._start_timer()

    def let_go(self) -> None:
        """Let go of the model, and return its memory to the system and to the device. Waits for its borrower."""
        with self._lock:
            self._stop_timer()
            self._drop()

    def _load(self, name: str, revision: str) -> LoadedModel:
        if self._held is None or (self._held.info.name, self._held.info.revision) != (name, revision):
            self._drop()
            try:
                self._held = self._loaded(name, revision)
            except HeadmapError as error:
                if not error.not_here or isinstance(error, ModelNotUsable):
                    raise
                raise ModelNotUsable(error.detail, param="model") from error
        return self._held

    def _loaded(self, name: str, revision: str) -> LoadedModel:
        from headmap.device_errors import told_as_out_of_memory
        from headmap.families.loading import load_model

        info = find_model(name, self._settings, revision)
        with told_as_out_of_memory():
            return load_model(info, device=self._settings.device, dtype=self._settings.dtype)

    def _drop(self) -> None:
        if self._held is None:
            return
        from headmap.devices import return_memory

        name, self._held = self._held.info.name, None
        return_memory()
        logger.info("model let go", extra={"model": name})

    def _start_timer(self) -> None:
        if self._held is not None:
            self._timer = threading.Timer(self._settings.model_idle_seconds, self._idle)
            self._timer.daemon = True
            self._timer.start()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _idle(self) -> None:
        with self._lock:
            if self._timer is threading.current_thread():  # nobody has borrowed the model since it was started
                self._timer = None
                self._drop()
