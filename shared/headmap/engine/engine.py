"""The engine: one thread that owns a model and its ragged cache, and runs every request that was admitted.

A request waits, runs and ends in exactly one terminal event (`Finished` or `Failed`). Requests join and leave between
decode steps; each has its own method, budget, length and generator.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Hashable

import torch

from headmap.engine.failures import as_headmap_error
from headmap.engine.graphs import capture_on_cuda
from headmap.engine.memory import spare_memory
from headmap.engine.messages import Cancelled, EngineRequest, EngineStats, Event, Failed, OnEvent, Token
from headmap.engine.reuse.sessions import Sessions
from headmap.engine.runner import ModelRunner
from headmap.engine.sampling.sampler import Sampled, sample
from headmap.engine.scheduler import Scheduler
from headmap.engine.sequence import Sequence, make_sequence
from headmap.errors import HeadmapError, OutOfMemory, ShuttingDown, Unavailable
from headmap.families.loading import LoadedModel
from headmap.kvcache.backends import get_backend
from headmap.kvcache.transformers.cache import RaggedCache
from headmap.settings import Settings

log = logging.getLogger(__name__)


class Engine:
    """Serves one model. `start` it, `submit` from any thread, `stop` it.

    KV memory is `settings.kv_memory_bytes`, or a share of what is free once the weights are loaded.
    """

    def __init__(self, loaded: LoadedModel, settings: Settings) -> None:
        if loaded.device.type != "cuda" and (settings.cuda_graphs or settings.decode_backend == "triton"):
            raise ValueError(
                "HEADMAP_CUDA_GRAPHS and HEADMAP_DECODE_BACKEND=triton need a CUDA device, "
                f"{loaded.info.name} is on {loaded.device}"
            )
        try:
            attend = get_backend(settings.decode_backend, loaded.device)
        except ImportError as error:
            raise Unavailable(f"HEADMAP_DECODE_BACKEND={settings.decode_backend}: {error}") from error
        self.loaded = loaded
        memory = settings.kv_memory_bytes or spare_memory(loaded.device)
        self._cache = RaggedCache(
            loaded.cache_shape,
            dtype=loaded.model.dtype,
            device=loaded.device,
            memory_bytes=memory,
            growth=1 / 2 if settings.cuda_graphs else 1 / 8,  # a captured graph holds until a tensor moves
            attend=attend,
        )
        self._runner = ModelRunner(loaded, self._cache, capture=capture_on_cuda if settings.cuda_graphs else None)
        self.sessions = Sessions(settings.session_memory_bytes)
        self._scheduler: Scheduler[Sequence] = Scheduler(settings.max_running, settings.max_waiting)
        self._max_prompt_tokens = min(settings.max_prompt_tokens, loaded.info.max_positions)
        self._max_decode_gap = settings.max_decode_gap_ms / 1e3
        self._running: list[Sequence] = []
        self._prefilling: Sequence | None = None
        self._last_step = self._step_seconds = 0.0
        self._cancelled: set[str] = set()
        self._wake = threading.Condition()
        self._stop_at: float | None = None
        self._totals = {"prompt": 0, "generated": 0, "finished": 0, "failed": 0}
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
        session = None if request.session is None else self.sessions.take(request.session, token_ids)
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
            with self._wake:
                if self._stop_at is not None:
                    raise ShuttingDown("the server is shutting down")
                if not self._thread.is_alive():
                    raise Unavailable("the engine is not running")
                self._scheduler.add(sequence)
                self._wake.notify()
        except BaseException:
            if session is not None:
                self.sessions.give_back(session)
            raise

    def cancel(self, request_id: str) -> None:
        """End a request; its cache is free before the next step. Unknown and ended ids are no error."""
        with self._wake:
            self._cancelled.add(request_id)
            self._wake.notify()

    def drop_session(self, key: Hashable) -> bool:
        """Forget what is kept of a conversation; whether there was anything."""
        return self.sessions.drop(key)

    def stop(self, timeout: float) -> None:
        """Take no more requests; those at hand have `timeout` seconds to finish, the rest fail with ShuttingDown."""
        with self._wake:
            self._stop_at = time.monotonic() + timeout
            self._wake.notify()
        if self._thread.ident is not None:
            self._thread.join(timeout + 60)

    def stats(self) -> EngineStats:
        with self._wake:
            return EngineStats(
                alive=self._thread.is_alive(),
                running=len(self._running) + (self._prefilling is not None),
                waiting=len(self._scheduler),
                kv_reserved_bytes=self._cache.reserved_bytes,
                kv_capacity_bytes=self._cache.capacity_bytes or 0,
                prompt_tokens_total=self._totals["prompt"],
                generated_tokens_total=self._totals["generated"],
                finished_total=self._totals["finished"],
                failed_total=self._totals["failed"],
                session_bytes=self.sessions.nbytes,
            )

    # ---- the engine's thread

    def _run(self) -> None:
        try:
            while self._wait_for_work():
                self._end_cancelled()
                self._admit_one()
                self._step()
        except BaseException:
            log.exception("the engine of %s died", self.loaded.info.name)
            raise
        finally:
            with self._wake:
                self._stop_at = self._stop_at or time.monotonic()
                left = [*filter(None, [self._prefilling]), *self._running, *self._scheduler.drain()]
            for sequence in left:
                self._fail(sequence, ShuttingDown("the server shut down before the request was done"))

    def _wait_for_work(self) -> bool:
        """Sleep until there is something to do; False when it is time to end."""
        with self._wake:
            while not self._running and not len(self._scheduler) and self._stop_at is None:
                self._cancelled.clear()
                self._wake.wait()
            if self._stop_at is None:
                return True
            busy = bool(self._running) or bool(len(self._scheduler))
            return busy and time.monotonic() < self._stop_at

    def _end_cancelled(self) -> None:
        with self._wake:
            ids, self._cancelled = self._cancelled, set()
            gone = [sequence for request_id in ids if (sequence := self._scheduler.remove(request_id))]
            if self._prefilling is not None and self._prefilling.id in ids:
                self._cancelled.add(self._prefilling.id)  # it ends once its prefill is done
        gone += [sequence for sequence in self._running if sequence.id in ids]
        for sequence in gone:
            self._fail(sequence, Cancelled("the client went away"))

    def _admit_one(self) -> None:
        """Prefill at most one request; running ones get their tokens between its layers."""
        with self._wake:
            sequence = self._scheduler.next(len(self._running), self._cache.fits)
            if sequence is None:
                return
            self._prefilling = sequence
        sequence.queue_s = time.monotonic() - sequence.submitted
        try:
            sequence.slot = self._cache.admit(sequence.reservation)
            started, stepping = time.monotonic(), self._step_seconds
            if sequence.session is not None:
                self._cache.unpark(sequence.slot, sequence.session.parked)
            logits = self._runner.prefill(
                sequence.slot, sequence.plan, sequence.prompt, on_layer=self._between_layers, watch=sequence.watch
            ).cpu()
            sequence.prefill_s = time.monotonic() - started - (self._step_seconds - stepping)
            self._totals["prompt"] += sequence.plan.prompt_tokens
            with self._wake:
                self._prefilling = None
                self._running.append(sequence)
        except Exception as error:
            self._fail(sequence, as_headmap_error(error))
            return
        for one in (sequence, *self._forks(sequence)):
            self._begin(one, logits[None].clone())

    def _forks(self, first: Sequence) -> list[Sequence]:
        """Start those of a group whose turn it is with copies of what one of them, prefilled, holds of the prompt."""
        forks: list[Sequence] = []
        while first.group is not None:
            with self._wake:
                sequence = self._scheduler.next(len(self._running), self._cache.fits, first.group)
                if sequence is None:
                    break
                self._running.append(sequence)
            started = time.monotonic()
            sequence.queue_s = started - sequence.submitted
            try:
                sequence.slot = self._cache.admit(sequence.reservation)
                self._cache.copy(first.slot, sequence.slot)
            except Exception as error:
                self._fail(sequence, as_headmap_error(error))
            else:
                sequence.prefill_s = time.monotonic() - started
                forks.append(sequence)
        return forks

    def _begin(self, sequence: Sequence, logits: torch.Tensor) -> None:
        """The first token of a sequence whose prompt is in the cache. `logits`: (1, vocab) float32."""
        try:
            sequence.position = sequence.request.prompt.next_position
            sequence.kept_tokens = self._cache.tokens(sequence.slot)
            if sequence.request.sampling.max_new_tokens == 0:
                self._finish(sequence, "length")
            else:
                sampled = sample(logits, [sequence.state])
                self._take(sequence, 0, int(sampled.tokens), sampled)  # it goes out before the session is copied
                if sequence.slot >= 0:
                    self._keep_session(sequence)
        except Exception as error:
            self._fail(sequence, as_headmap_error(error))

    def _between_layers(self) -> None:
        """A long prompt must not hold up the others: decode once the last step lies too far back.

        Raises Cancelled where the prompt's own client has gone.
        """
        if self._prefilling is not None and self._prefilling.id in self._cancelled:
            raise Cancelled("the client went away")
        if self._running and time.monotonic() - self._last_step >= self._max_decode_gap:
            self._end_cancelled()
            self._step()

    def _step(self) -> None:
        """One token for every running sequence; where memory runs out, for all but the youngest."""
        started = time.monotonic()
        while running := list(self._running):
            try:
                logits = self._runner.decode(
                    [sequence.slot for sequence in running],
                    [sequence.tokens[-1] for sequence in running],
                    [sequence.position for sequence in running],
                )
                sampled = sample(logits, [sequence.state for sequence in running])
                tokens = sampled.tokens.tolist()
                break
            except OutOfMemory as error:
                if self._prefilling is not None:
                    raise  # the youngest is the one whose prefill this ends; the step comes again after it
                self._fail(running[-1], as_headmap_error(error))
            except Exception as error:
                for sequence in running:
                    self._fail(sequence, as_headmap_error(error))
        else:
            return
        self._last_step = time.monotonic()
        elapsed = self._last_step - started
        self._step_seconds += elapsed
        for row, sequence in enumerate(running):
            sequence.position += 1
            sequence.decode_s += elapsed
            try:
                self._take(sequence, row, tokens[row], sampled)
            except Exception as error:
                self._fail(sequence, as_headmap_error(error))

    def _take(self, sequence: Sequence, row: int, token: int, sampled: Sampled) -> None:
        """Go on with the token that was chosen for a sequence, tell its caller, and end it where it ends."""
        if row in sampled.errors:
            raise sampled.errors[row]
        state, sampling = sequence.state, sequence.request.sampling
        state.take(token)
        sequence.tokens.append(token)
        self._totals["generated"] += 1
        ended = token in state.ends
        text = "" if ended else sequence.stream.push(token)
        self._tell(sequence, Token(token, text, *sampled.log_probabilities.get(row, ())))
        if ended or state.done:
            self._finish(sequence, "eos_token")
        elif sequence.stream.stopped:
            self._finish(sequence, "stop_sequence")
        elif len(sequence.tokens) >= sampling.max_new_tokens:
            self._finish(sequence, "length")

    def _finish(self, sequence: Sequence, reason: str) -> None:
        tail = sequence.stream.finish()
        if len(sequence.tokens) <= 1:
            self._keep_session(sequence)
        self._leave(sequence)
        self._totals["finished"] += 1
        self._tell(sequence, sequence.finished(reason, tail, self._cache.shape))

    def _keep_session(self, sequence: Sequence) -> None:
        """Copy what the cache holds of a conversation for its next turn, where that fits the sessions' memory.

        Only its prompt, before any token of the answer has run: a client's next prompt may write the same answer in
        other tokens.
        """
        session = sequence.request.session
        held = sequence.kept_tokens * self._cache.shape.token_bytes
        if session is None or sequence.session_kept or held > self.sessions.memory_bytes:
            return
        try:
            parked = self._cache.park(sequence.slot)
            sequence.session_kept = self.sessions.keep(session, sequence.prompt_ids, parked)
        except Exception:  # costs the next turn its time, and not this one its answer
            log.exception("the session of request %s is not kept", sequence.id)

    def _fail(self, sequence: Sequence, error: HeadmapError) -> None:
        self._leave(sequence)
        self._totals["failed"] += 1
        if error.status >= 500:
            whose = {"request_id": sequence.request.request_id, "code": error.code}
            log.error("request failed: %s", error.detail, exc_info=error.__cause__, extra=whose)
        self._tell(sequence, Failed(error))

    def _leave(self, sequence: Sequence) -> None:
        with self._wake:
            if sequence is self._prefilling:
                self._prefilling = None
            if sequence in self._running:
                self._running.remove(sequence)
        if sequence.slot >= 0:
            self._cache.release(sequence.slot)
            sequence.slot = -1
        if sequence.session is not None:
            self.sessions.give_back(sequence.session)
            sequence.session = None

    @staticmethod
    def _tell(sequence: Sequence, event: Event) -> None:
        try:
            sequence.on_event(event)
        except Exception:  # a listener's fault is not the engine's
            log.exception("the listener of request %s failed", sequence.id)
