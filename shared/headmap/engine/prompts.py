"""Prompts: several are prefilled in one row, and requests of a group go on from one of them."""

from __future__ import annotations

import time
from functools import partial

import torch

from headmap.engine.ends import Ends
from headmap.engine.failures import raise_if_broken
from headmap.engine.messages import Cancelled
from headmap.engine.prompt_logprobs import prompt_logprobs
from headmap.engine.roster import Roster
from headmap.engine.runner import ModelRunner
from headmap.engine.sequence import Sequence
from headmap.engine.steps import Preempted, Steps
from headmap.errors import ShuttingDown


def _asks_of_prompt(sequence: Sequence) -> bool:
    """Whether it asks for its prompt's log probabilities and has none yet. A preempted sequence keeps its own."""
    return sequence.request.prompt_logprobs is not None and not sequence.prompt_logprobs


class Prompts:
    """Starts the requests of one engine, on its thread.

    `max_decode_gap`: seconds after which a prefill lets those that run have a step.
    """

    def __init__(self, runner: ModelRunner, roster: Roster, steps: Steps, ends: Ends, *, max_decode_gap: float) -> None:
        self.tokens_total = 0
        self._runner = runner
        self._cache = runner.cache
        self._roster = roster
        self._steps = steps
        self._ends = ends
        self._max_decode_gap = max_decode_gap

    def prefill(self) -> None:
        """Prefill the next requests in one row; running ones get their tokens between its layers."""
        pack = self._roster.next_pack()
        if not pack:
            return
        self._ends.telling.tell_untold()
        started, stepping = time.monotonic(), self._steps.seconds
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
        except Preempted:
            for sequence in reversed(pack):
                self._ends.put_back(sequence)
        except Exception as error:
            self._prefill_failed(pack, error)
        else:
            elapsed = time.monotonic() - started - (self._steps.seconds - stepping)
            self._roster.run_pack()
            for sequence in pack:
                sequence.prefill_s += elapsed
            self._begin(pack, logits)

    def _between_layers(self) -> None:
        """Decode if the last step is too long ago, so that a long prompt does not hold up the others.

        Raises Cancelled if all clients of the prompts have gone, and ShuttingDown if no time is left.
        """
        if self._roster.out_of_time:
            raise ShuttingDown("the server shut down before the request was done")
        if not self._roster.prefill_is_wanted:
            raise Cancelled("the client went away")
        if self._roster.running and time.monotonic() - self._steps.last >= self._max_decode_gap:
            self._ends.cancel()
            self._steps.run()

    def _tell_prompts(self, pack: list[Sequence], number: int, hidden: torch.Tensor) -> None:
        sequence, loaded = pack[number], self._runner.loaded
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
        if len(pack) == 1 or isinstance(error, Cancelled | ShuttingDown):
            self._ends.fail_all(pack, error)
            return
        raise_if_broken(error)
        for sequence in reversed(pack):
            sequence.alone = True
            self._ends.put_back(sequence)

    def _begin(self, pack: list[Sequence], logits: torch.Tensor) -> None:
        """Choose the first tokens of sequences whose prompts are in the cache; preempted ones already have theirs."""
        started: list[Sequence] = []
        rows: list[int] = []
        for row, sequence in enumerate(pack):
            if sequence.tokens:
                continue
            self.tokens_total += sequence.plan.prompt_tokens
            sequence.kept_tokens = self._cache.tokens(sequence.slot)
            sequence.kept_bytes = self._cache.prompt_bytes(sequence.slot)
            own = [sequence, *self._forks(sequence)]
            started += own
            rows += [row] * len(own)
        for sequence in started:
            if sequence.request.sampling.max_new_tokens == 0:
                self._ends.finish(sequence, "length")
        speaking = [place for place, sequence in enumerate(started) if sequence.slot >= 0]
        if speaking:
            self._steps.take_all([started[place] for place in speaking], logits[[rows[place] for place in speaking]])
        for sequence in pack:  # the first token goes out before the session is copied
            if sequence.slot >= 0:
                self._ends.keep_session(sequence)

    def _forks(self, first: Sequence) -> list[Sequence]:
        """Start other requests of the group on the prefilled cache part of `first`, while it is their turn."""
        forks: list[Sequence] = []
        while first.request.group is not None and (sequence := self._roster.next_fork(first)):
            sequence.queue_s += time.monotonic() - sequence.submitted
            try:
                sequence.slot = self._cache.fork(first.slot)
            except Exception as error:
                self._ends.fail_all([sequence], error)
            else:
                sequence.kept_tokens, sequence.kept_bytes = first.kept_tokens, first.kept_bytes
                sequence.prompt_logprobs = first.prompt_logprobs
                forks.append(sequence)
        return forks
