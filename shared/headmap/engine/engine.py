"""The engine: one thread that owns a model and its ragged cache, and runs every request that was admitted.

A request waits, runs and ends with exactly one terminal event (`Finished` or `Failed`). Requests join and leave between
decode steps; each has its own method, budget, length and generator. A request is admitted when memory has room for the
kept part of its prompt and a page's worth of steps of all others. If memory runs short later, the youngest request
waits again and goes on from the tokens it had.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Hashable
from contextlib import suppress
from functools import partial

import torch

from headmap.device_errors import is_broken_device
from headmap.devices import use_device
from headmap.engine.decode_choice import DecodeChoice, choose_attention, choose_compiled, choose_graphs
from headmap.engine.engine_settings import EngineSettings
from headmap.engine.failures import as_headmap_error
from headmap.engine.graphs import CudaCapture
from headmap.engine.memory import spare_memory
from headmap.engine.messages import Cancelled, EngineRequest, EngineStats, Failed, OnEvent
from headmap.engine.prompt_logprobs import prompt_logprobs
from headmap.engine.reuse.sessions import Sessions
from headmap.engine.roster import Roster
from headmap.engine.runner import ModelRunner
from headmap.engine.sampling.sampler import LogProbabilities, sample
from headmap.engine.sequence import Sequence, make_sequence
from headmap.engine.telling import Telling
from headmap.errors import DeviceFailed, HeadmapError, OutOfMemory, ShuttingDown, Unavailable
from headmap.families.loading import LoadedModel
from headmap.kvcache.pool.pool import Pool
from headmap.kvcache.transformers.cache import RaggedCache

log = logging.getLogger(__name__)


def _asks_of_prompt(sequence: Sequence) -> bool:
    """Whether its prompt's log probabilities are still missing; a preempted sequence has them."""
    return sequence.request.prompt_logprobs is not None and not sequence.prompt_logprobs


class _Preempted(Exception):
    """A prefill is given up: the running sequences need its pages."""


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
        self._max_decode_gap = settings.max_decode_gap_ms / 1e3
        self._last_step = self._step_seconds = 0.0
        self._telling = Telling(
            later=loaded.device.type == "cuda",
            fail=lambda sequence, error: self._fail(sequence, as_headmap_error(error)),
        )
        self._died: str | None = None
        self._totals = {"prompt": 0, "generated": 0, "finished": 0, "failed": 0, "preempted": 0}
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
                prompt_tokens_total=self._totals["prompt"],
                generated_tokens_total=self._totals["generated"],
                finished_total=self._totals["finished"],
                failed_total=self._totals["failed"],
                preempted_total=self._totals["preempted"],
                session_bytes=self.sessions.nbytes,
            )

    # ---- the engine's thread

    def _run(self) -> None:
        why: HeadmapError = ShuttingDown("the server shut down before the request was done")
        try:
            use_device(self.loaded.device)
            while self._roster.wait_for_work():
                self._end_cancelled()
                self._prefill()
                self._step()
        except BaseException as error:
            log.exception("the engine of %s died", self.loaded.info.name)
            why = error if isinstance(error, DeviceFailed) else Unavailable("the engine ended with an error")
            self._died = f": {why.detail}"
            if not isinstance(error, Exception):
                raise
        finally:
            with suppress(Exception):  # what runs here has to tell everybody, whatever else is broken
                self._telling.tell_untold()
            for sequence in self._roster.drain():  # nothing is cleaned up: the cache ends with the engine
                self._count_failure(sequence, why)
                self._telling.event(sequence, Failed(why))

    def _end_cancelled(self) -> None:
        for sequence in self._roster.take_cancelled():
            self._fail(sequence, Cancelled("the client went away"))

    # ---- prompts

    def _prefill(self) -> None:
        """Prefill the next requests in one row; running ones get their tokens between its layers."""
        pack = self._roster.next_pack()
        if not pack:
            return
        self._telling.tell_untold()
        started, stepping = time.monotonic(), self._step_seconds
        for sequence in pack:
            sequence.queue_s += started - sequence.submitted
        try:
            for sequence in pack:
                sequence.slot = self._cache.admit(sequence.plan, sequence.room, sequence.past)
            logits = self._runner.prefill(
                [sequence.prefill() for sequence in pack],
                [sequence.prompt for sequence in pack],
                on_layer=self._between_layers,
                on_hidden=partial(self._tell_prompts, pack) if any(map(_asks_of_prompt, pack)) else None,
            )
            for sequence in pack:
                if len(sequence.tokens) > 1:
                    first = sequence.request.prompt.next_position
                    self._runner.extend(sequence.slot, sequence.tokens[:-1], first, on_layer=self._between_layers)
        except _Preempted:
            for sequence in reversed(pack):
                self._put_back(sequence)
        except Exception as error:
            self._prefill_failed(pack, error)
        else:
            elapsed = time.monotonic() - started - (self._step_seconds - stepping)
            self._roster.run_pack()
            for sequence in pack:
                sequence.prefill_s += elapsed
            self._begin(pack, logits)

    def _tell_prompts(self, pack: list[Sequence], number: int, hidden: torch.Tensor) -> None:
        sequence, loaded = pack[number], self.loaded
        if _asks_of_prompt(sequence):
            sequence.prompt_logprobs = prompt_logprobs(
                loaded.model.lm_head,
                hidden,
                sequence.prompt_ids,
                sequence.request.prompt_logprobs or 0,
                loaded.family.image_token_id(loaded.model.config),
                self._between_layers,
            )

    def _prefill_failed(self, pack: list[Sequence], error: Exception) -> None:
        """A single prompt fails; several are each tried alone. Cancelled and ShuttingDown end all of them."""
        self._stop_if_broken(error)
        told = as_headmap_error(error)
        if len(pack) == 1 or isinstance(told, Cancelled | ShuttingDown):
            for sequence in pack:
                self._fail(sequence, told)
            return
        for sequence in reversed(pack):
            sequence.alone = True
            self._put_back(sequence)

    def _begin(self, pack: list[Sequence], logits: torch.Tensor) -> None:
        """Choose the first tokens of sequences whose prompts are in the cache; preempted ones already have theirs."""
        started: list[Sequence] = []
        rows: list[int] = []
        for row, sequence in enumerate(pack):
            if sequence.tokens:
                continue
            self._totals["prompt"] += sequence.plan.prompt_tokens
            sequence.kept_tokens = self._cache.tokens(sequence.slot)
            sequence.kept_bytes = self._cache.prompt_bytes(sequence.slot)
            own = [sequence, *self._forks(sequence)]
            started += own
            rows += [row] * len(own)
        for sequence in started:
            if sequence.request.sampling.max_new_tokens == 0:
                self._finish(sequence, "length")
        speaking = [place for place, sequence in enumerate(started) if sequence.slot >= 0]
        if speaking:
            self._take_all([started[place] for place in speaking], logits[[rows[place] for place in speaking]])
        for sequence in pack:  # the first token goes out before the session is copied
            if sequence.slot >= 0:
                self._keep_session(sequence)

    def _forks(self, first: Sequence) -> list[Sequence]:
        """Start other requests of the group on the prefilled cache part of `first`, while it is their turn."""
        forks: list[Sequence] = []
        while first.request.group is not None and (sequence := self._roster.next_fork(first)):
            sequence.queue_s += time.monotonic() - sequence.submitted
            try:
                sequence.slot = self._cache.fork(first.slot)
            except Exception as error:
                self._stop_if_broken(error)
                self._fail(sequence, as_headmap_error(error))
            else:
                sequence.kept_tokens, sequence.kept_bytes = first.kept_tokens, first.kept_bytes
                sequence.prompt_logprobs = first.prompt_logprobs
                forks.append(sequence)
        return forks

    def _between_layers(self) -> None:
        """Decode if the last step is too long ago, so that a long prompt does not hold up the others.

        Raises Cancelled if all clients of the prompts have gone, and ShuttingDown if no time is left.
        """
        if self._roster.out_of_time:
            raise ShuttingDown("the server shut down before the request was done")
        if not self._roster.prefill_is_wanted:
            raise Cancelled("the client went away")
        if self._roster.running and time.monotonic() - self._last_step >= self._max_decode_gap:
            self._end_cancelled()
            self._step()

    # ---- steps

    def _step(self) -> None:
        """Run one token of every running sequence. If the device's memory runs out, leave out the youngest."""
        started = time.monotonic()
        self._make_room()
        while running := list(self._roster.running):
            try:
                logits = self._runner.decode(
                    [sequence.slot for sequence in running],
                    [sequence.tokens[-1] for sequence in running],
                    [sequence.position for sequence in running],
                )
                break
            except OutOfMemory as error:
                if self._roster.prefilling:
                    raise  # this ends the youngest's prefill; the step is tried again afterwards
                self._fail(running[-1], as_headmap_error(error))
            except Exception as error:
                self._stop_if_broken(error)
                for sequence in running:
                    self._fail(sequence, as_headmap_error(error))
        else:
            return
        self._telling.tell_untold()
        self._take_all(running, logits, started)

    def _make_room(self) -> None:
        """Preempt the youngest sequences until pages for one more token of the others are free."""
        books, roster = self._cache.books, self._roster

        def is_short() -> bool:
            slots = [sequence.slot for sequence in roster.running]
            return roster.busy > 1 and books.short(slots) > len(books.free)

        if is_short():
            self._telling.tell_untold()
        while is_short():
            self._totals["preempted"] += 1
            if roster.prefilling:
                raise _Preempted
            self._put_back(roster.running[-1])

    def _put_back(self, sequence: Sequence) -> None:
        """Free a sequence's memory; it starts next, and goes on from the tokens that it has."""
        self._release(sequence)
        sequence.submitted = time.monotonic()
        self._roster.put_back(sequence)

    def _take_all(self, sequences: list[Sequence], logits: torch.Tensor, started: float | None = None) -> None:
        """Choose each sequence's next token, tell its caller, and end it after its last token. `logits`: (S, vocab).

        `started`: when the step began that made them, in seconds of time.monotonic(); None after a prefill.
        """
        try:
            sampled = sample(logits, [sequence.state for sequence in sequences])
            tokens = sampled.tokens.tolist()
        except Exception as error:
            self._stop_if_broken(error)
            for sequence in sequences:
                self._fail(sequence, as_headmap_error(error))
            return
        if started is not None:
            self._count_step(sequences, started)
        for row, (sequence, token) in enumerate(zip(sequences, tokens, strict=True)):
            if sequence.ended:  # its token of the step before could not be told
                continue
            try:
                if row in sampled.errors:
                    raise sampled.errors[row]
                self._take(sequence, token, sampled.log_probabilities.get(row))
            except Exception as error:
                self._fail(sequence, as_headmap_error(error))

    def _count_step(self, sequences: list[Sequence], started: float) -> None:
        self._last_step = time.monotonic()
        elapsed = self._last_step - started
        self._step_seconds += elapsed
        for sequence in sequences:
            sequence.decode_s += elapsed

    def _take(self, sequence: Sequence, token: int, logprobs: LogProbabilities | None) -> None:
        sequence.state.take(token)
        sequence.tokens.append(token)
        self._totals["generated"] += 1
        reason = None
        if token in sequence.state.ends or sequence.state.done:
            reason = "eos_token"
        elif len(sequence.tokens) >= sequence.most_tokens:
            reason = "length"
        self._telling.token(sequence, token, logprobs, last=reason is not None)
        if reason != "eos_token" and sequence.stream.stopped:
            reason = "stop_sequence"
        if reason is not None:
            self._finish(sequence, reason)

    # ---- ends

    def _finish(self, sequence: Sequence, reason: str) -> None:
        tail = sequence.stream.finish()
        if len(sequence.tokens) <= 1:
            self._keep_session(sequence)
        self._leave(sequence)
        end = sequence.finished(reason, tail, self._cache.paging)
        sequence.ended = True
        self._totals["finished"] += 1
        self._telling.event(sequence, end)

    def _keep_session(self, sequence: Sequence) -> None:
        """Copy a conversation's cache for its next turn, if that fits the sessions' memory.

        It copies the prompt alone, before any token of the answer has run: the client's next prompt may write the same
        answer in other tokens.
        """
        session = sequence.request.session
        held = sequence.kept_tokens * self._cache.shape.token_bytes
        if session is None or sequence.session_kept or len(sequence.tokens) > 1 or held > self.sessions.memory_bytes:
            return
        try:
            parked = self._cache.park(sequence.slot)
            sequence.session_kept = self.sessions.keep(session, sequence.prompt_ids, parked)
        except Exception as error:  # the next turn takes longer; this one keeps its answer
            self._stop_if_broken(error)
            log.exception("the session of request %s is not kept", sequence.id)

    def _fail(self, sequence: Sequence, error: HeadmapError) -> None:
        """End a sequence with an error. Its client is told first. Does nothing if it has ended."""
        self._telling.tell_untold()
        if sequence.ended:
            return
        sequence.ended = True
        self._count_failure(sequence, error)
        self._telling.event(sequence, Failed(error))
        self._leave(sequence)

    def _count_failure(self, sequence: Sequence, error: HeadmapError) -> None:
        self._totals["failed"] += 1
        if error.status >= 500:
            whose = {"request_id": sequence.request.request_id, "code": error.code, **sequence.request.trace_ids}
            log.error("request failed: %s", error.detail, exc_info=error.__cause__, extra=whose)

    def _leave(self, sequence: Sequence) -> None:
        """Remove a running sequence and free its memory. An error here ends the engine: its books would be wrong."""
        self._roster.remove(sequence)
        self._release(sequence)
        if sequence.session is not None:
            self.sessions.give_back(sequence.session)
            sequence.session = None

    def _release(self, sequence: Sequence) -> None:
        slot, sequence.slot = sequence.slot, -1
        if slot >= 0:
            self._cache.release(slot)

    def _stop_if_broken(self, error: Exception) -> None:
        """Raises DeviceFailed, which ends the engine, if the device will not work again in this process."""
        if isinstance(error, DeviceFailed):
            raise error
        if is_broken_device(error):
            raise DeviceFailed("the device failed; the server has to start again") from error
