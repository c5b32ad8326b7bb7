"""What repeats in a log is counted, and what is told apart is not."""

from __future__ import annotations

import json
import logging

import pytest

from headmap.http.logs import JsonFormatter, RepeatFilter

BURST = 5


class Log:
    """A logger of its own behind the filter; `lines` are what came through, at times of `now`."""

    def __init__(self, name: str, **options: int) -> None:
        self.now = 0.0
        self.lines: list[dict[str, object]] = []
        handler = logging.Handler()
        formatter = JsonFormatter("test")
        handler.emit = lambda record: self.lines.append(json.loads(formatter.format(record)))  # type: ignore[method-assign]
        handler.addFilter(RepeatFilter(BURST, clock=lambda: self.now, **options))
        self.logger = logging.Logger(name)
        self.logger.addHandler(handler)

    def broken(self, value: object) -> None:
        self.logger.warning("broken: %s", value)


@pytest.fixture
def log() -> Log:
    return Log("test")


def test_what_repeats_is_told_once_a_second_and_how_often_it_was_not(log: Log) -> None:
    for number in range(1000):
        log.broken(number)
    assert [line["message"] for line in log.lines] == [f"broken: {number}" for number in range(BURST)]
    log.now = 1.0
    log.broken("again")
    assert log.lines[-1]["message"] == "broken: again"
    assert log.lines[-1]["not_shown"] == 1000 - BURST
    for _ in range(100):
        log.now += 0.1
        log.broken("slower")
    assert len(log.lines) <= BURST + 1 + 11


def test_after_a_pause_each_is_told_again(log: Log) -> None:
    for _ in range(50):
        log.broken("then")
    log.now = 60.0
    log.lines.clear()
    for _ in range(50):
        log.broken("later")
    assert len(log.lines) == BURST
    assert "not_shown" not in log.lines[1]


def test_other_lines_and_exceptions_are_told_beside_it(log: Log) -> None:
    for _ in range(100):
        log.broken("x")
    seen = len(log.lines)
    log.logger.warning("another")
    for kind in (ValueError, KeyError):
        try:
            raise kind
        except kind:
            log.logger.exception("failed")
    assert len(log.lines) == seen + 3


def test_requests_and_other_information_are_never_left_out(log: Log) -> None:
    for _ in range(100):
        log.logger.info("request")
    assert len(log.lines) == 100


def test_its_memory_is_bounded() -> None:
    log = Log("test", most_kinds=10)
    for number in range(1000):
        log.logger.warning("made of %s" % number)  # noqa: UP031  # a text that is new each time
    (repeats,) = log.logger.handlers[0].filters
    assert isinstance(repeats, RepeatFilter)
    assert len(repeats._kinds) == 10
