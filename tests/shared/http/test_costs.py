"""What a body costs is known while it arrives, and what an error shows is bounded."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headmap.errors import HeadmapError, InvalidParameter, PayloadTooLarge
from headmap.http.costs import LONG_TEXT, MAX_SHOWN, Allowance, Costs, JsonMeter, characters, shown
from headmap.settings import Settings

COSTS = Costs(values=100, members=50, plain_bytes=100_000, text_bytes=200_000)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text('ab,[{:"\\/ é😀', max_size=8),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text('a,"\\[', max_size=4), inner, max_size=5),
    max_leaves=40,
)


def measured(body: bytes, costs: Costs, chunk: int = 5000) -> JsonMeter:
    meter, whole = JsonMeter(costs), bytearray()
    for start in range(0, len(body), chunk):
        whole += body[start : start + chunk]
        meter.feed(whole, ended=False)
    meter.feed(whole, ended=True)
    return meter


def refusal(body: bytes, costs: Costs = COSTS) -> HeadmapError | None:
    try:
        measured(body, costs)
    except HeadmapError as error:
        return error
    return None


def values(value: Any) -> int:
    """Those inside of lists and objects; an empty one counts as if it held one."""
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else max(1, len(inner)) + sum(map(values, inner))


@given(JSON, st.booleans(), st.integers(1, 300))
def test_values_are_counted_exactly(value: Any, plain: bool, chunk: int) -> None:
    body = json.dumps(value, ensure_ascii=plain).encode()
    count = values(value)
    measured(body, Costs(values=count, members=1000, plain_bytes=100_000, text_bytes=200_000), chunk)
    if count:
        with pytest.raises(PayloadTooLarge, match=f"more than {count - 1} values"):
            measured(body, Costs(values=count - 1, members=1000, plain_bytes=100_000, text_bytes=200_000), chunk)


@pytest.mark.parametrize("size", [LONG_TEXT, 3 * LONG_TEXT + 1])
@pytest.mark.parametrize("unit", ["x", '"', "\\", "é", "\\u0041", ",["])
def test_long_texts_are_found_whatever_is_in_them(unit: str, size: int) -> None:
    text = (unit * size)[:size]
    body = json.dumps(["short", text, {"a": text}], ensure_ascii=False).encode()
    found = measured(body, Costs(values=10, members=20, plain_bytes=4 * LONG_TEXT, text_bytes=8 * LONG_TEXT)).long_texts
    assert [json.loads(b'"' + body[first:end] + b'"') for first, end in found] == [text, text]


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"[" + b"1," * 200 + b"1]", "values"),
        (b"[" * 60, "names, texts, lists and objects"),
        (b"[" + b'"a",' * 60 + b"1]", "names, texts, lists and objects"),
        (b'{"a":1' + b" " * 100_000 + b"}", "bytes beside long texts"),
        (b'["' + b'a","' * 90, "names, texts, lists and objects"),
        (b'["' + b"a" * 300_000, "bytes in one text"),
        (b'"' * 70_000, "names, texts, lists and objects"),
    ],
)
def test_a_body_above_a_bound_is_refused(body: bytes, what: str) -> None:
    error = refusal(body)
    assert error is not None
    assert (error.status, error.param) == (413, "body")
    assert what in error.detail


def test_a_number_of_too_many_digits_is_refused() -> None:
    assert isinstance(refusal(b"[0." + b"1" * 5000 + b"]"), InvalidParameter)
    assert refusal(b"[0." + b"1" * 500 + b"]") is None


def test_real_bodies_are_within_the_bounds() -> None:
    settings = Settings()
    costs = Costs.of(settings)
    tokens = {"prompt": [151_643] * settings.max_prompt_tokens, "logit_bias": {str(n): -100 for n in range(1024)}}
    messages = {"messages": [{"role": "user", "content": "What is it?"}] * 4096}
    pictures = {"images": ["A" * 2_000_000] * settings.max_images, "inputs": "What?"}
    for body in (tokens, messages, pictures):
        assert refusal(json.dumps(body).encode(), costs) is None


def test_an_allowance_is_used_up_over_all_parts() -> None:
    allowance = Allowance(10, "characters")
    allowance.spend(6, "a")
    with pytest.raises(PayloadTooLarge, match="b: more than 10 characters"):
        allowance.spend(6, "b")


def test_characters_stops_where_it_knows_enough() -> None:
    assert characters({"name": ["abc", 1]}, 100) >= len("{name:[abc,1]}")
    endless: list[Any] = []
    endless += [endless, endless]
    assert characters(endless, 1000) > 1000


@pytest.mark.parametrize(
    "value",
    [
        "x" * 10**7, b"\xff" * 10**7, [1] * 10**6, {str(n): n for n in range(10**5)}, [10**5000], "\ud800" * 1000,
        [[[[[[[["deep"] * 1000] * 1000]]]]]], {"a" * 10**7: 1}, (None,) * 1000,
    ],
)  # fmt: skip
def test_a_value_is_shown_in_a_few_characters(value: object) -> None:
    assert len(shown(value)) <= MAX_SHOWN


@pytest.mark.parametrize("value", ["a", 5, 1.5, None, True, [], {}, [3], {"a": [1, "b"]}, "é\n", 10**50])
def test_a_small_value_is_shown_as_it_is(value: object) -> None:
    assert shown(value) == repr(value)
