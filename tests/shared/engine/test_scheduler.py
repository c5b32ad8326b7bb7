"""Who runs next."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headmap.engine.scheduler import MAX_OVERTAKES, Scheduler, spare_pages, startable
from headmap.errors import QueueFull


@dataclass(frozen=True)
class Request:
    id: str
    size: int
    group: str | None = None


def test_first_come_first_served() -> None:
    scheduler: Scheduler[Request] = Scheduler(4, 10)
    for name in "abc":
        scheduler.add(Request(name, 1), 0)
    assert [scheduler.next(running, lambda request: True).id for running in range(3)] == ["a", "b", "c"]
    assert scheduler.next(0, lambda request: True) is None


def test_with_a_wish_only_whose_turn_it_is_and_only_one_that_is_wanted() -> None:
    scheduler: Scheduler[Request] = Scheduler(4, 10)
    for name, size, group in (("a", 1, "g"), ("b", 1, "h"), ("c", 1, "g"), ("d", 9, "h"), ("e", 1, "g")):
        scheduler.add(Request(name, size, group), 0)

    def next_of(group: str, running: int = 0) -> str | None:
        found = scheduler.next(running, lambda one: one.size < 9, lambda one: one.group == group)
        return found and found.id

    assert next_of("h") is None
    assert next_of("g", running=4) is None
    assert next_of("g") == "a"
    assert next_of("g") is None  # b's turn
    assert [next_of("h"), next_of("g")] == ["b", "c"]
    assert next_of("h") is None  # d does not fit, e would overtake it
    assert next_of("g") == "e"


def test_no_more_than_max_running() -> None:
    scheduler: Scheduler[Request] = Scheduler(2, 10)
    scheduler.add(Request("a", 1), 0)
    assert scheduler.next(2, lambda request: True) is None
    assert scheduler.next(1, lambda request: True) is not None


def test_a_full_queue_refuses() -> None:
    scheduler: Scheduler[Request] = Scheduler(2, 1)
    scheduler.add(Request("a", 1), 1)
    scheduler.add(Request("b", 1), 1)
    with pytest.raises(QueueFull, match="3 requests are running or waiting"):
        scheduler.add(Request("c", 1), 1)


def test_without_a_queue_as_many_are_taken_as_can_run() -> None:
    scheduler: Scheduler[Request] = Scheduler(2, 0)
    scheduler.add(Request("a", 1), 0)
    scheduler.add(Request("b", 1), 0)
    with pytest.raises(QueueFull):
        scheduler.add(Request("c", 1), 0)


def test_who_is_put_back_is_next() -> None:
    scheduler: Scheduler[Request] = Scheduler(4, 1)
    scheduler.add(Request("a", 1), 0)
    scheduler.put_back(Request("b", 1))
    scheduler.put_back(Request("c", 1))
    assert [scheduler.next(0, lambda request: True).id for _ in "cba"] == ["c", "b", "a"]


def test_small_requests_pass_a_giant_a_bounded_number_of_times() -> None:
    scheduler: Scheduler[Request] = Scheduler(1000, 1000)
    scheduler.add(Request("giant", 100), 0)
    for number in range(MAX_OVERTAKES + 5):
        scheduler.add(Request(str(number), 1), 0)
    passed = []
    while (request := scheduler.next(0, lambda request: request.size < 100)) is not None:
        passed.append(request.id)
    assert passed == [str(number) for number in range(MAX_OVERTAKES)]
    assert scheduler.next(0, lambda request: True).id == "giant"
    assert scheduler.next(0, lambda request: request.size < 100).id == str(MAX_OVERTAKES)


def test_a_giant_that_gives_up_lets_the_others_go() -> None:
    scheduler: Scheduler[Request] = Scheduler(10, 1000)
    scheduler.add(Request("giant", 100), 0)
    for number in range(2 * MAX_OVERTAKES):
        scheduler.add(Request(str(number), 1), 0)
    while scheduler.next(0, lambda request: request.size < 100) is not None:
        pass
    assert scheduler.remove("giant").id == "giant"
    assert scheduler.next(0, lambda request: request.size < 100) is not None
    assert scheduler.remove("giant") is None


@given(st.lists(st.integers(1, 10), max_size=40), st.integers(10, 30))
def test_everyone_is_served_once_memory_comes_back(sizes: list[int], capacity: int) -> None:
    scheduler: Scheduler[Request] = Scheduler(1000, 1000)
    for number, size in enumerate(sizes):
        scheduler.add(Request(str(number), size), 0)
    served: list[str] = []
    held: list[Request] = []
    while len(served) < len(sizes):
        free = capacity - sum(request.size for request in held)
        request = scheduler.next(len(held), lambda request, free=free: request.size <= free)
        if request is None:
            held.pop(0)
        else:
            held.append(request)
            served.append(request.id)
            assert sum(request.size for request in held) <= capacity
    assert sorted(served, key=int) == [str(number) for number in range(len(sizes))]


@given(free=st.integers(0, 400), start=st.integers(1, 40), step=st.integers(0, 20))
def test_as_many_start_as_the_rule_lets_in_one_after_the_other(free: int, start: int, step: int) -> None:
    running = 0
    while start <= spare_pages(free - running * start, running, step):
        running += 1
    assert startable(free, start, step) == running
