"""Lanes: results in order whatever ends first, each on one torch thread; errors and ends reach everybody."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from headmap.families.loading import LoadedModel
from headmap.scoring.lanes import Step, in_lanes
from headmap.scoring.pages import make_page
from headmap.scoring.profile import score_pages

_SECONDS = 30


@pytest.fixture
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    with ThreadPoolExecutor(1) as later:
        assert {torch.get_num_threads(), later.submit(torch.get_num_threads).result()} == {4}
    torch.set_num_threads(before)


def nothing() -> None:
    pass


def until(event: threading.Event, step: Step) -> None:
    """Work that goes on until it is told to end, or `event` is set."""
    while not event.wait(0.01):
        step()


def test_results_come_in_order_each_from_one_torch_thread(four_threads: None) -> None:
    second_done = threading.Event()

    def work(item: int, step: Step) -> tuple[int, int]:
        if item == 0:
            assert second_done.wait(_SECONDS)
        if item == 1:
            second_done.set()
        return item, torch.get_num_threads()

    results = in_lanes(range(9), work, lanes=2, on_step=nothing)
    assert list(results) == [(item, 1) for item in range(9)]


def test_no_more_than_two_items_a_lane_are_taken_ahead(four_threads: None) -> None:
    taken: list[int] = []
    items = (taken.append(item) or item for item in range(20))
    results = in_lanes(items, lambda item, step: item, lanes=2, on_step=nothing)
    assert next(results) == 0
    assert taken == [0, 1, 2, 3]
    results.close()
    assert len(taken) == 4


def test_an_error_of_one_item_ends_the_others(four_threads: None) -> None:
    ended = threading.Event()

    def work(item: int, step: Step) -> None:
        if item == 0:
            raise TimeoutError("the work's own")
        try:
            until(threading.Event(), step)
        finally:
            ended.set()

    with pytest.raises(TimeoutError, match="the work's own"):
        list(in_lanes(range(3), work, lanes=2, on_step=nothing))
    assert ended.wait(_SECONDS)


def test_the_caller_is_asked_while_lanes_work_and_may_end_them(four_threads: None) -> None:
    asked: list[str] = []

    def on_step() -> None:
        asked.append(threading.current_thread().name)
        if len(asked) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(in_lanes(range(3), lambda item, step: until(threading.Event(), step), lanes=2, on_step=on_step))
    assert asked == [threading.current_thread().name] * 2


def test_an_error_of_the_items_ends_the_lanes(four_threads: None) -> None:
    def items() -> Iterator[int]:
        yield 0
        raise LookupError("no page 1")

    with pytest.raises(LookupError, match="no page 1"):
        list(in_lanes(items(), lambda item, step: until(threading.Event(), step), lanes=2, on_step=nothing))


def test_scores_are_the_same_to_the_bit_in_any_number_of_lanes(
    small_model: Callable[[str], LoadedModel], four_threads: None
) -> None:
    model = small_model("qwen2_vl")
    pages = [make_page(5, index) for index in range(5)]
    found = []
    for threads in (1, 3, 4):
        torch.set_num_threads(threads)
        found.append(list(score_pages(model, pages, max_new_tokens=12, pages_with_looks=2)))
    for same in zip(*found, strict=True):
        assert len({page.scores.tobytes() for page in same}) == 1
        assert len({(page.tokens_seen, page.tokens_matched, page.hits) for page in same}) == 1
    assert [[page.looks is not None for page in pages] for pages in found] == [[True, True, False, False, False]] * 3
