"""Queues: a name for each model at its revision, and turns that neither starve a model nor reload it for each shard."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

from headmap.jobs.queue_turns import QueueTurns
from headmap.jobs.queues import JobQueue, device_kind, model_part
from headmap.settings import Settings

A, B, C = (JobQueue(f"org/{letter}", "r").name for letter in "abc")
A_CPU = JobQueue("org/a", "r", "cpu").name


@pytest.mark.parametrize("model", ["org/model-1.5", "/a folder/über.model", "x" * 512, "."])
def test_any_model_has_a_queue_whose_name_any_broker_takes(model: str) -> None:
    queue = JobQueue(model, "sha256:0", "cuda")
    assert re.fullmatch(r"headmap-scoring\.[\w-]*\.[0-9a-f]{12}\.cuda", queue.name, re.ASCII)
    assert len(queue.name) < 100
    assert queue.any_device.name == model_part(queue.name) == queue.name.removesuffix(".cuda")


def test_models_and_revisions_have_queues_of_their_own() -> None:
    pairs = [("org/a", "r"), ("org/a", "s"), ("org-a", "r"), ("org/a\0r", "")]
    assert len({JobQueue(*pair).name for pair in pairs}) == len(pairs)


def served(turns: QueueTurns, messages: dict[str, int], clock: list[float]) -> list[str]:
    """The queues from which a consumer takes its messages, one a second."""
    taken = []
    while any(messages.values()):
        queue = next(name for name in turns.consume(len(messages)) if messages.get(name))
        messages[queue] -= 1
        taken.append(turns.rotate(queue))
        clock[0] += 1
    return taken


def test_a_model_is_served_for_a_turn_and_none_waits_for_more_than_the_others_turns() -> None:
    clock = [0.0]
    turns = QueueTurns(10, lambda: clock[0])
    turns.update([A, B, C])
    taken = served(turns, {A: 100, B: 100, C: 25}, clock)
    changes = [index for index in range(1, len(taken)) if taken[index] != taken[index - 1]]
    lengths = [after - before for before, after in zip([0, *changes], changes, strict=False)]
    assert max(lengths[:8]) == 10
    assert len(changes) < len(taken) / 7, "the model changes at most once a turn"
    for queue in (A, B):
        places = [index for index, name in enumerate(taken[:200]) if name == queue]
        assert max(after - before for before, after in pairwise(places)) <= 21


def test_a_turn_is_the_models_over_both_of_its_queues_and_ends_when_they_are_empty() -> None:
    clock = [0.0]
    turns = QueueTurns(10, lambda: clock[0])
    turns.update([A, B, A_CPU])
    assert served(turns, {A: 3, A_CPU: 3, B: 2}, clock) == [A] * 3 + [A_CPU] * 3 + [B] * 2


def test_queues_come_and_go_within_a_turn() -> None:
    turns = QueueTurns(10, lambda: 0.0)
    turns.update([A, B])
    turns.rotate(B)
    turns.update([A, B, C])
    assert turns.consume(3) == [B, A, C]
    turns.update([C, A])
    assert turns.consume(2) == [A, C]


def test_the_kind_of_device_is_the_settings_or_that_of_the_machine(tmp_path: Path) -> None:
    assert device_kind(Settings(data_dir=tmp_path, device="cuda:3")) == "cuda"
    assert device_kind(Settings(data_dir=tmp_path, device="cpu")) == "cpu"
