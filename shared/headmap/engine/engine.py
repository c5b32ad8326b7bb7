"""The engine: one thread that owns a model and its ragged cache, and runs every request that was admitted.

A request waits, runs and ends with exactly one terminal event (`Finished` or `Failed`). Requests join and leave between
decode steps; each has its own method, budget, length and generator. A request is admitted when memory has room for the
kept part of its prompt and a page's worth of steps of all others. If memory runs short later, the youngest request
waits again and goes on from the tokens it had.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Hashable
from contextlib import suppress

from headmap.devices import use_device
from headmap.engine.decode_choice import DecodeChoice, choose_attention, choose_compiled, choose_graphs
from headmap.engine.ends import Ends
from headmap.engine.engine_settings import EngineSettings
from headmap.engine.graphs import CudaCapture
from headmap.engine.memory import spare_memory
from headmap.engine.messages import EngineRequest, EngineStats, OnEvent
from headmap.engine.prompts import Prompts
from headmap.engine.reuse.sessions import Sessions
from headmap.engine.roster import Roster
from headmap.engine.runner import ModelRunner
from headmap.engine.sequence import make_sequence
from headmap.engine.steps import Steps
from headmap.errors import DeviceFailed, HeadmapError, ShuttingDown, Unavailable
from headmap.families.loading import LoadedModel
from headmap.kvcache.pool.pool import Pool
from headmap.kvcache.transformers.cache import RaggedCache

log = logging.getLogger(__name__)


class Engine:
    """Serves one model. `start` it, `submit` from any thread, `stop` it.

    KV memory is `settings.kv_memory_bytes`, or a share of what is free once the weights are loaded. A broken device
    ends it: `stats().alive` says so. `choice`: how its decode steps run, decided when it is made.

    Raises Unavailable if the decode backend of the settings, or every backend, gives wrong results here.
    """

    def __init__(self, loaded: LoadedModel, settings: EngineSettings) -> None:
        self.loaded = loaded
        attention = choose_attention(settings.decode_backend, loaded)
        pool = Pool(
            loaded.cache_shape,
            memory_bytes=settings.kv_memory_bytes or spare_memory(loaded.device),
            slots=settings.max_running,
            max_tokens=loaded.info.max_positions,
            dtype=loaded.model.dtype,
            device=loaded.device,
        )
        self._cache = RaggedCache(pool, attention.chosen)
        capture = CudaCapture if loaded.device.type == "cuda" else None
        graphs, runner = choose_graphs(settings.cuda_graphs, ModelRunner(loaded, self._cache), capture)
        compiled, self._runner = choose_compiled(settings.compile_layers, runner, capture)
        self.choice = DecodeChoice(attention, graphs, compiled)
        log.info("%s: %s", loaded.info.name, self.choice)
        self.sessions = Sessions(settings.session_memory_bytes)
        self._roster = Roster(
            self._cache.books,
            max_running=settings.max_running,
            max_waiting=settings.max_waiting,
            max_prefill_tokens=settings.max_prefill_tokens,
            packs=lambda sequence: loaded.family.packs(sequence.prompt),
        )
        self._max_prompt_tokens = min(settings.max_prompt_tokens, loaded.info.max_positions)
        self._ends = Ends(self._cache, self._roster, self.sessions, later=loaded.device.type == "cuda")
        self._steps = Steps(self._runner, self._roster, self._ends)
        self._prompts = Prompts(
            self._runner, self._roster, self._steps, self._ends, max_decode_gap=settings.max_decode_gap_ms / 1e3
        )
        self._died: str | None = None
        self._thread = threading.Thread(target=self._run, name=f"engine {loaded.info.name}", daemon=True)

    # ---- any thread

    def start(self) -> None:
        self._thread.start()

    def submit(self, request: EngineRequest, on_event: OnEvent) -> None:
        """Queue a request; its events arrive on the engine's thread, the last one Finished or Failed.

        Raises at once, with no event: BadRequest leaves for a request that cannot be served, QueueFull when too many
        wait, ShuttingDown and Unavailable when the engine ends or has ended.
        """
        token_ids = request.prompt.inputs["input_ids"][0].tolist()
        goes_on = request.session is not None and request.prompt_logprobs is None
        session = self.sessions.take(request.session, token_ids) if request.session and goes_on else None
        try:
            sequence = make_sequence(
                request,
                on_event,
                session,
                token_ids,
                loaded=self.loaded,
                cache=self._cache,
                max_prompt_tokens=self._max_prompt_tokens,
            )
            with self._roster.changed:
                if self._died is not None or (self._roster.stop_at is None and not self._thread.is_alive()):
                    raise Unavailable(f"the engine is not running{self._died or ''}")
                self._roster.add(sequence)
        except BaseException:
            if session is not None:
                self.sessions.give_back(session)
            raise

    def cancel(self, request_id: str) -> None:
        """End a request; its cache is free before the next step. Unknown and ended ids are no error."""
        self._roster.cancel(request_id)

    def drop_session(self, key: Hashable) -> bool:
        """Forget a kept conversation. Returns whether there was one."""
        return self.sessions.drop(key)

    def stop(self, timeout: float) -> None:
        """Take no more requests; open ones have `timeout` seconds to finish, the rest fail with ShuttingDown."""
        self._roster.stop(timeout)
        if self._thread.ident is not None:
            self._thread.join(timeout + 60)

    def stats(self) -> EngineStats:
        with self._roster.changed:
            return EngineStats(
                alive=self._thread.is_alive(),
                running=self._roster.busy,
                waiting=self._roster.waiting,
                kv_held_bytes=self._cache.pool.held_bytes,
                kv_capacity_bytes=self._cache.pool.capacity_bytes,
                kv_block_tokens=self._cache.pool.page_tokens,
                kv_block_bytes=self._cache.pool.block_bytes,
                prompt_tokens_total=self._prompts.tokens_total,
                generated_tokens_total=self._steps.generated_total,
                finished_total=self._ends.finished_total,
                failed_total=self._ends.failed_total,
                preempted_total=self._steps.preempted_total,
                session_bytes=self.sessions.nbytes,
            )

    # ---- the engine's thread

    def _run(self) -> None:
        why: HeadmapError = ShuttingDown("the server shut down before the request was done")
        try:
            use_device(self.loaded.device)
            while self._roster.wait_for_work():
                self._ends.cancel()
                self._prompts.prefill()
                self._steps.run()
        except BaseException as error:
            log.exception("the engine of %s died", self.loaded.info.name)
            why = error if isinstance(error, DeviceFailed) else Unavailable("the engine ended with an error")
            self._died = f": {why.detail}"
            if not isinstance(error, Exception):
                raise
        finally:
            with suppress(Exception):  # what runs here has to tell everybody, whatever else is broken
                self._ends.telling.tell_untold()
            self._ends.drain(why)
