"""Decode steps: one token of every running sequence at a time, while memory has room for them."""

from __future__ import annotations

import time

import torch

from headmap.engine.ends import Ends
from headmap.engine.roster import Roster
from headmap.engine.runner import ModelRunner
from headmap.engine.sampling.sampler import LogProbabilities, sample
from headmap.engine.sequence import Sequence
from headmap.errors import OutOfMemory


class Preempted(Exception):
    """A prefill is given up: the running sequences need its pages."""


class Steps:
    """Runs the decode steps of one engine, on its thread. last: when the last step ended. seconds: the total of all."""

    def __init__(self, runner: ModelRunner, roster: Roster, ends: Ends) -> None:
        self.last = self.seconds = 0.0
        self.generated_total = self.preempted_total = 0
        self._runner = runner
        self._books = runner.cache.books
        self._roster = roster
        self._ends = ends

    def run(self) -> None:
        """Run one token of every running sequence. If the device's memory runs out, leave out the youngest.

        Raises Preempted within a prefill whose pages are needed.
        """
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
                self._ends.fail(running[-1], error)
            except Exception as error:
                self._ends.fail_all(running, error)
        else:
            return
        self._ends.telling.tell_untold()
        self.take_all(running, logits, started)

    def take_all(self, sequences: list[Sequence], logits: torch.Tensor, started: float | None = None) -> None:
        """Choose each sequence's next token, tell its caller, and end it after its last token. `logits`: (S, vocab).

        `started`: when the step began that made them, in seconds of time.monotonic(); None after a prefill.
        """
        try:
            sampled = sample(logits, [sequence.state for sequence in sequences])
            tokens = sampled.tokens.tolist()
        except Exception as error:
            self._ends.fail_all(sequences, error)
            return
        if started is not None:
            self._count(sequences, started)
        for row, (sequence, token) in enumerate(zip(sequences, tokens, strict=True)):
            if sequence.ended:  # its token of the step before could not be told
                continue
            try:
                if row in sampled.errors:
                    raise sampled.errors[row]
                self._take(sequence, token, sampled.log_probabilities.get(row))
            except Exception as error:
                self._ends.fail(sequence, error)

    def _make_room(self) -> None:
        """Preempt the youngest sequences until pages for one more token of the others are free."""
        books, roster = self._books, self._roster

        def is_short() -> bool:
            slots = [sequence.slot for sequence in roster.running]
            return roster.busy > 1 and books.short(slots) > len(books.free)

        if is_short():
            self._ends.telling.tell_untold()
        while is_short():
            self.preempted_total += 1
            if roster.prefilling:
                raise Preempted
            self._ends.put_back(roster.running[-1])

    def _count(self, sequences: list[Sequence], started: float) -> None:
        self.last = time.monotonic()
        elapsed = self.last - started
        self.seconds += elapsed
        for sequence in sequences:
            sequence.decode_s += elapsed

    def _take(self, sequence: Sequence, token: int, logprobs: LogProbabilities | None) -> None:
        sequence.state.take(token)
        sequence.tokens.append(token)
        self.generated_total += 1
        reason = None
        if token in sequence.state.ends or sequence.state.done:
            reason = "eos_token"
        elif len(sequence.tokens) >= sequence.most_tokens:
            reason = "length"
        self._ends.telling.token(sequence, token, logprobs, last=reason is not None)
        if reason != "eos_token" and sequence.stream.stopped:
            reason = "stop_sequence"
        if reason is not None:
            self._ends.finish(sequence, reason)
