"""Requests that say nothing of their length start where their prompt fits, and end with what memory holds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from headmap.engine.engine import Engine
from headmap.errors import RequestTooLarge
from headmap.families.loading import LoadedModel
from headmap.settings import Settings
from tests.shared.engine.driving import assert_all_free, at_once, make, submit

ROOM = {"max_new_tokens": 400, "ignore_eos": True}


@pytest.fixture
def small(model: LoadedModel) -> Engine:
    """Memory for a prompt and some tens of tokens."""
    engine = Engine(model, Settings(kv_memory_bytes=130_000, max_waiting=32))
    engine.start()
    return engine


def test_it_is_taken_and_ends_where_memory_does(small: Engine, model: LoadedModel) -> None:
    with pytest.raises(RequestTooLarge):
        submit(small, make(model, "a", **ROOM))
    finished = submit(small, replace(make(model, "b", **ROOM), open_ended=True)).result()
    assert finished.finish_reason == "length"
    assert 1 < len(finished.token_ids) < 400
    assert_all_free(small)
    small.stop(0)


def test_several_share_memory_and_all_end(small: Engine, model: LoadedModel) -> None:
    alone = submit(small, replace(make(model, "a", **ROOM), open_ended=True)).result()
    calls = at_once(small, [replace(make(model, str(n), **ROOM), open_ended=True) for n in range(4)])
    results = [call.result() for call in calls]
    assert all(one.finish_reason == "length" for one in results)
    longest = min(len(alone.token_ids), *(len(one.token_ids) for one in results))
    assert all(one.token_ids[:longest] == alone.token_ids[:longest] for one in results)
    assert_all_free(small)
    small.stop(0)


def test_one_that_ends_by_itself_costs_no_more_than_it_takes(small: Engine, model: LoadedModel) -> None:
    asked = make(model, "a", max_new_tokens=400, stop_token_ids=frozenset())
    done = submit(small, make(model, "x", max_new_tokens=6, ignore_eos=True)).result()
    third = done.token_ids[2]
    sampling = replace(asked.sampling, stop_token_ids=frozenset({third}))
    finished = submit(small, replace(asked, sampling=sampling, open_ended=True)).result()
    assert finished.finish_reason == "eos_token"
    assert finished.token_ids[-1] == third
    small.stop(0)
