"""Metrics against published examples, and which answers each takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headmap.errors import InvalidParameter
from headmap.evaluation.metrics import METRICS, get_metric
from headmap.evaluation.metrics.edit_distance import edit_distance

TEXT = st.text("ab 1.%,'", max_size=12)


def score(name: str, answer: str, *expected: str) -> float:
    return get_metric(name).score(answer, expected)


@pytest.mark.parametrize("name", METRICS)
@given(answer=TEXT, right=TEXT)
def test_marks_are_shares_and_the_right_answer_gets_one(name: str, answer: str, right: str) -> None:
    metric = get_metric(name)
    expected = [right] * metric.fewest
    metric.check(expected, "q")
    mark = metric.score(answer, expected)
    assert 0 <= mark <= 1
    assert mark in (0, 1) or not metric.binary
    assert metric.score(right, expected) == 1


@given(a=TEXT, b=TEXT, c=TEXT)
def test_edit_distance_is_a_distance(a: str, b: str, c: str) -> None:
    assert edit_distance(a, b) == edit_distance(b, a)
    assert (edit_distance(a, b) == 0) == (a == b)
    assert edit_distance(a, c) <= edit_distance(a, b) + edit_distance(b, c)
    assert abs(len(a) - len(b)) <= edit_distance(a, b) <= max(len(a), len(b))


def test_edit_distance_of_the_textbooks() -> None:
    assert edit_distance("kitten", "sitting") == 3  # Levenshtein's best-known example
    assert edit_distance("intention", "execution") == 5  # Jurafsky and Martin, section 2.5


def test_exact_match_minds_the_case_and_not_the_spaces() -> None:
    assert score("exact", " A1\n B2 ", "A1 B2") == 1
    assert score("exact", "a1", "A1") == 0
    assert score("exact", "two", "one", "two") == 1


def test_contains_is_that_of_ocrbench() -> None:
    assert score("contains", "The text reads\nCENTRE street.", "centre") == 1
    assert score("contains", "center", "centre") == 0


def test_anls_is_that_of_docvqa() -> None:
    assert score("anls", "Kitten", "sitting") == pytest.approx(1 - 3 / 7)
    assert score("anls", "ab", "ax") == 0.5  # the threshold itself counts
    assert score("anls", "abc", "axy") == 0
    assert score("anls", "abc", "xyz", "ABC") == 1


def test_relaxed_accuracy_is_that_of_chartqa() -> None:
    assert score("relaxed", "104.9", "100") == score("relaxed", "95", "100") == 1
    assert score("relaxed", "105.1", "100") == 0
    assert score("relaxed", "0.12", "12%") == 1
    assert score("relaxed", "0.01", "0") == 0
    assert score("relaxed", "Brazil", "brazil") == 1
    assert score("relaxed", "nan", "100") == score("relaxed", "inf", "100") == 0


@pytest.mark.parametrize(("agreeing", "mark"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_vqa_accuracy_over_ten_annotators(agreeing: int, mark: float) -> None:
    """The published table of agreement and accuracy."""
    assert score("vqa", "a Cat.", *["cat"] * agreeing, *["dog"] * (10 - agreeing)) == pytest.approx(mark)


@pytest.mark.parametrize(
    ("answer", "right"),
    [("The two dogs!", "2 dogs"), ("dont know", "don't know"), ("1,000", "1000"), ("couldnt've", "couldn't've")],
)
def test_vqa_normalises_both_sides(answer: str, right: str) -> None:
    assert score("vqa", answer, *[right] * 10) == 1


def test_error_rates_are_those_of_the_evaluate_library() -> None:
    """Its cards: over both pairs WER is 0.5 and CER 0.3415; weighted by the lengths of the references."""
    said, right = (
        ["this is the prediction", "there is an other sample"],
        ["this is the reference", "there is another one"],
    )
    words = [len(one.split()) for one in right]
    wrong = [(1 - score("wer", *pair)) * n for pair, n in zip(zip(said, right, strict=True), words, strict=True)]
    assert sum(wrong) / sum(words) == pytest.approx(0.5)
    wrong = [(1 - score("cer", *pair)) * len(pair[1]) for pair in zip(said, right, strict=True)]
    assert sum(wrong) / sum(map(len, right)) == pytest.approx(0.34146341463414637)
    assert score("cer", "much too long", "x") == 0


def test_a_metric_that_does_not_fit_is_named_with_the_question() -> None:
    with pytest.raises(InvalidParameter, match="'vqa' takes at least 4 right answers a question, question 'q7' has 1"):
        get_metric("vqa").check(["x"], "q7")
    with pytest.raises(InvalidParameter, match="'cer' takes 1 right answer a question, question 'q7' has 2"):
        get_metric("cer").check(["x", "y"], "q7")
    with pytest.raises(InvalidParameter, match="metric: 'bleu' is none of exact, contains"):
        get_metric("bleu")
