"""Bodies of POST /maps: what is read is what was written, list by list."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from headmap.errors import PayloadTooLarge
from services.scoring.map_bodies import MapRoute, ScoreList, read_map

NUMBERS = st.integers(-9, 9) | st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text('ab"\\[]{},1', max_size=8)
BODIES = st.recursive(
    NUMBERS | TEXTS | st.lists(NUMBERS, max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)


def plain(value: Any) -> Any:
    if isinstance(value, ScoreList):
        assert len(value) == len(list(value))
        return list(value)
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list) else value


@given(BODIES, st.sampled_from([None, 2]))
def test_what_is_read_is_what_was_written(value: Any, indent: int | None) -> None:
    assert plain(read_map(bytearray(json.dumps(value, indent=indent).encode()), MapRoute.costs)) == value


@pytest.mark.parametrize("text", ["[", "[1", '{"a":[1,}', '"[1]', "[1]]", '{"a":[1]'])
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"EOF|expected|trailing"):
        read_map(bytearray(text.encode()), MapRoute.costs)


@pytest.mark.parametrize(
    "body", ['{"a":[' + "1," * 3_000_000 + "1]}", '{"a":{"b":' + "1" * 9_000_000 + "}}", "[1" * 10]
)
def test_a_list_and_all_beside_lists_are_bounded(body: str) -> None:
    with pytest.raises((PayloadTooLarge, ValueError)):
        read_map(bytearray(body.encode()), MapRoute.costs)


@pytest.mark.parametrize(
    "scores", ['"0-0":[1,]', '"0-0":[1 2]', '"0-0":[1,x]', '"0-0":["a"]', '"0-0":[]', '"0-0":[[1]]']
)
def test_a_fault_in_a_list_names_the_scores(client: TestClient, scores: str) -> None:
    body = f'{{"model": "nobody/none", "num_kv_heads": 1, "scores": {{{scores}}}}}'
    answer = client.post("/maps", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["param"]) == (422, "scores")
    assert "scores" in answer.json()["detail"]
