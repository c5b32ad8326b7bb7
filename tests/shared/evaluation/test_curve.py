"""Intervals against published values; the curve and what it recommends as properties."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headmap.errors import InvalidParameter, UnknownMethod
from headmap.evaluation.answers import AnswerRow, read_lines, with_differences, write_lines
from headmap.evaluation.cases import Case, find_case, make_cases
from headmap.evaluation.curve import Curve, make_curve
from headmap.evaluation.intervals import (
    Z95_ONE_SIDED,
    mcnemar,
    mean_interval,
    paired_means_interval,
    paired_shares_interval,
    wilson,
)
from headmap.evaluation.metrics import Metric, get_metric
from headmap.kvcache.select import SELECTORS, Select

EXACT, ANLS = get_metric("exact"), get_metric("anls")
MARKS = st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=30)


def test_wilson_is_the_published_interval() -> None:
    low, high = wilson(81, 263)  # Newcombe 1998, table I: 0.2553 to 0.3662
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    assert wilson(0, 10)[0] == 0
    assert wilson(0, 0) == (0, 1)


def test_the_paired_interval_is_tangos() -> None:
    low, high = paired_shares_interval(1, 7, 21)  # Fagerland, Lydersen, Laake 2014, table IV
    assert (round(low, 3), round(high, 3)) == (-0.517, -0.026)
    low, high = paired_shares_interval(28, 25, 618, Z95_ONE_SIDED)  # as R's PropCIs::scoreci.mp
    assert (round(low, 4), round(high, 4)) == (-0.0148, 0.0247)
    assert paired_shares_interval(0, 0, 200)[1] == pytest.approx(wilson(0, 200)[1])


def test_mcnemar_is_the_sign_test() -> None:
    assert mcnemar(0, 6) == 0.03125
    assert round(mcnemar(9, 1), 4) == 0.0215
    assert mcnemar(0, 0) == mcnemar(4, 4) == 1


@given(gained=st.integers(0, 40), lost=st.integers(0, 40), equal=st.integers(0, 400))
def test_the_paired_interval_holds_the_difference_and_mirrors(gained: int, lost: int, equal: int) -> None:
    total = max(1, gained + lost + equal)
    low, high = paired_shares_interval(gained, lost, total)
    assert -1 <= low <= (gained - lost) / total <= high <= 1
    assert paired_shares_interval(lost, gained, total) == pytest.approx((-high, -low), abs=1e-9)
    narrower = paired_shares_interval(gained, lost, total, Z95_ONE_SIDED)
    assert low <= narrower[0] + 1e-9
    assert narrower[1] <= high + 1e-9


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=40))
def test_a_mean_lies_in_its_interval_and_few_questions_prove_nothing(differences: list[float]) -> None:
    low, high = paired_means_interval(differences)
    assert -1 <= low <= high <= 1
    assert high - low > 1 / (len(differences) + 2)
    scores = [abs(one) for one in differences]
    low, high = mean_interval(scores)
    assert 0 <= low <= sum(scores) / len(scores) + 1e-12 <= high + 2e-12


def rows(marks: Sequence[Sequence[float]], cases: Sequence[Case]) -> list[AnswerRow]:
    """A row for each question and case: `marks` has a line for each question, a mark for each case."""
    return [
        AnswerRow(
            f"q{number}", case.method, case.ratio, "?", ("x",), "x", float(mark), 100, 40, 4096, None, case.select
        )
        for number, line in enumerate(marks)
        for case, mark in zip(cases, line, strict=True)
    ]


THREE = make_cases(["sparsemm"], [0.1, 0.4])
OWN = Select(window=6, pool=3)
BY_SELECTOR = make_cases(["sparsemm"], [0.4], ["last-query", OWN])


@given(MARKS, st.integers(0, 9))
def test_a_curve_does_not_depend_on_the_order_of_rows_or_shards(marks: list[tuple[bool, ...]], seed: int) -> None:
    ordered = rows(marks, THREE)
    shuffled = random.Random(seed).sample(ordered, len(ordered))
    for metric in (EXACT, ANLS):
        assert make_curve(shuffled, metric) == make_curve(ordered, metric)


@given(MARKS)
def test_curves_and_answers_are_read_back_as_they_were(marks: list[tuple[bool, ...]]) -> None:
    for cases in (THREE, BY_SELECTOR):
        ordered = rows(marks, cases)
        curve = make_curve(ordered, EXACT)
        assert Curve.from_json(json.loads(json.dumps(curve.to_json()))) == curve
        odd = [replace(row, answer="ü\u2028\r\n{") for row in ordered]
        assert list(read_lines(write_lines(odd))) == odd


def test_results_name_their_selectors_and_without_one_it_was_snapkv() -> None:
    marks = [(1, 1, 1)] * 30
    told = make_curve(rows(marks, BY_SELECTOR), EXACT, 0.3).to_json()
    own = {"observe": "window", "window": 6, "pool": 3, "mix": 0.0}
    assert [point["select"] for point in told["points"]] == [None, "last-query", own]
    assert told["recommended"] == {"method": "sparsemm", "ratio": 0.4, "select": "last-query"}
    cases = make_cases(["sparsemm"], [0.1, 0.4], ["snapkv"])
    curve = make_curve(rows(marks, cases), EXACT, 0.3)
    without = curve.to_json()
    for one in (*without["points"], without["recommended"]):
        assert one.pop("select") == (None if one["method"] == "full" else "snapkv")
    assert Curve.from_json(without) == curve
    row = rows(marks, cases)[1]
    assert AnswerRow.from_json({name: value for name, value in row.to_json().items() if name != "select"}) == row


def test_differing_answers_follow_the_full_caches() -> None:
    ordered = rows([(True, True, True), (True, False, True), (False, False, True)], THREE)
    said = [replace(row, answer=f"{row.score}") for row in ordered]
    found = [(row.question_id, str(row.case)) for row in with_differences(said)]
    assert found == [("q1", "full"), ("q1", "sparsemm@0.1"), ("q2", "full"), ("q2", "sparsemm@0.4")]


@given(MARKS)
def test_points_say_what_was_marked(marks: list[tuple[bool, ...]]) -> None:
    curve = make_curve(rows(marks, THREE), EXACT, 0.3)
    full = curve.points[0]
    assert (full.method, full.difference_to_full, full.p_value, full.loss_below) == ("full", 0, 1, 0)
    for place, point in enumerate(curve.points):
        right = sum(line[place] for line in marks) / len(marks)
        assert point.right == pytest.approx(right)
        assert point.total == len(marks)
        assert point.interval[0] - 1e-9 <= right <= point.interval[1] + 1e-9
        assert point.difference_to_full == pytest.approx(right - full.right)
        assert point.loss_below >= -point.difference_to_full - 1e-9
        assert (point.kept_tokens, point.kept_bytes) == (40, 4096)


@given(MARKS, st.floats(0.01, 1))
def test_what_is_recommended_holds_and_so_do_larger_ratios(marks: list[tuple[bool, ...]], margin: float) -> None:
    curve = make_curve(rows(marks, THREE), EXACT, margin)
    small, large = (curve.point(case) for case in THREE[1:])
    assert small is not None
    assert large is not None
    expected = None if not large.within(margin) else THREE[1] if small.within(margin) else THREE[2]
    assert curve.recommended == expected


@pytest.mark.parametrize("metric", [EXACT, ANLS])
def test_equal_answers_are_proof_only_in_number(metric: Metric) -> None:
    few, many = (make_curve(rows([(1, 1, 1)] * count, THREE), metric, 0.01) for count in (50, 300))
    assert few.recommended is None
    assert many.recommended == THREE[1]


def test_of_two_methods_at_a_ratio_the_better_is_recommended() -> None:
    cases = make_cases(["snapkv", "sparsemm"], [0.2])
    marks = [(1, 1, 1)] * 99 + [(0, 0, 1)]
    assert make_curve(rows(marks, cases), EXACT, 0.1).recommended == cases[2]


@given(MARKS)
def test_each_selector_has_its_own_ratios(marks: list[tuple[bool, ...]]) -> None:
    """Its points are those of an evaluation of it alone."""
    cases = make_cases(["sparsemm"], [0.1, 0.4], ["snapkv", "last-query"])
    lines = [(full, small, large, large, small) for full, small, large in marks]
    both = rows(lines, cases)
    curve = make_curve(both, EXACT, 0.3)
    alone = [
        make_curve([row for row in both if row.method == "full" or row.select == select], EXACT, 0.3)
        for select in (SELECTORS["snapkv"], SELECTORS["last-query"])
    ]
    assert curve.points == (*alone[0].points, *alone[1].points[1:])
    held = [one.recommended for one in alone if one.recommended is not None]
    assert (curve.recommended is None) == (not held)
    if curve.recommended is not None:
        assert curve.recommended.ratio == min(case.ratio for case in held)
        assert curve.recommended in held


def test_rows_that_make_no_curve_are_refused() -> None:
    good = rows([(1, 1, 1), (1, 0, 1)], THREE)
    for bad in ([], good[:-1], [*good, good[0]], [row for row in good if row.method != "full"]):
        with pytest.raises(ValueError, match=r"curve|answered"):
            make_curve(bad, EXACT)
    for margin in (0.0, -1.0, 2.0, float("nan")):
        with pytest.raises(InvalidParameter, match="margin"):
            make_curve(good, EXACT, margin)


def test_rows_come_back_from_json() -> None:
    row = replace(rows([(1, 1, 1)], THREE)[1], expected=("a", "b"), token_ms=1.5)
    assert AnswerRow.from_json({**row.to_json(), "expected": ["a", "b"]}) == row


def test_cases_name_what_is_wrong() -> None:
    assert make_cases(["sparsemm", "full"], [0.4, 0.1]) == THREE
    assert [str(case) for case in THREE] == ["full", "sparsemm@0.1", "sparsemm@0.4"]
    assert [str(case) for case in BY_SELECTOR[1:]] == ["sparsemm@0.4/last-query", "sparsemm@0.4/window=6,pool=3"]
    with pytest.raises(UnknownMethod, match="methods: 'h2o' is none of full"):
        make_cases(["h2o"])
    for methods, ratios, named in (
        (["snapkv", "snapkv"], [0.1], "methods: 'snapkv' is named twice"),
        (["snapkv"], [0.1, 0.1], "ratios: 0.1 is named twice"),
        (["snapkv"], [0.0], "ratios: must be above 0"),
        (["snapkv"], [1.5], "at most 1, got 1.5"),
        (["snapkv"], [float("nan")], "got nan"),
        (["snapkv"], [], "ratios: at least one"),
        ([], [0.1], "methods: at least one"),
    ):
        with pytest.raises(InvalidParameter, match=named):
            make_cases(methods, ratios)
    mixkv, last = SELECTORS["mixkv"], Select("last", window=3)
    for selectors, named in (
        (["mixkv", replace(mixkv)], "selectors: 'mixkv' is named twice"),
        ([OWN, OWN], "selectors: 'window=6,pool=3' is named twice"),
        (["snapkv", "h2o"], "selectors.1: 'h2o' is not one of snapkv"),
        ([last], "selectors.0.window: .* got 3"),
        ([], "selectors: at least one"),
    ):
        with pytest.raises(InvalidParameter, match=named):
            make_cases(["snapkv"], [0.1], selectors)


def test_a_case_is_found_by_what_distinguishes_it() -> None:
    cases = (*THREE, *BY_SELECTOR[1:])
    assert find_case(cases, "full") == find_case(cases, "full", 1) == cases[0]
    assert find_case(cases, "sparsemm", 0.1) == cases[1]
    assert find_case(cases, "sparsemm", 0.4, OWN) == cases[4]
    for wrong, named in (
        (("snapkv", 0.1), "method: 'snapkv' is none of the measured ones: full, sparsemm@0.1,"),
        (("sparsemm", None), "ratio: None is none"),
        (("sparsemm", 0.2), "ratio: 0.2 is none"),
        (("sparsemm", 0.1, OWN), "select: 'window=6,pool=3' is none"),
        (("sparsemm", 0.4), "select: missing, where several were measured: mixkv, last-query, window=6,pool=3"),
    ):
        with pytest.raises(InvalidParameter, match=named):
            find_case(cases, *wrong)  # type: ignore[arg-type]  # tuples of several lengths
