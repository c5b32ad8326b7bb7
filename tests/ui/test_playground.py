"""The playground: a picture, two answers, and what their caches keep."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.ui.steps import ANSWER, PICTURE, QUESTION, column, fill_playground, show

pytestmark = [pytest.mark.ui, pytest.mark.timeout(900)]


def test_both_columns_answer_a_picture_of_ones_own(page: Page) -> None:
    fill_playground(page)
    page.get_by_role("button", name="Ask both").click()
    left, right = column(page, "Left"), column(page, "Right")
    expect(left.locator(".answer-text")).to_have_text(ANSWER)
    expect(left).to_contain_text("all of it")
    expect(right).to_contain_text("20 % of the prompt")
    expect(right.get_by_role("meter", name="Tokens kept")).to_have_attribute("aria-valuenow", re.compile("^(19|20)$"))
    expect(left.get_by_role("meter", name="KV memory")).to_have_attribute("aria-valuenow", "100")
    for one in (left, right):
        expect(one.locator("dd").first).to_have_text(re.compile("ms|s$"))
    expect(right.get_by_role("link", name="in use")).to_be_visible()


def test_the_slider_asks_again_with_another_budget(page: Page) -> None:
    fill_playground(page)
    page.get_by_role("button", name="Ask both").click()
    right = column(page, "Right")
    kept = right.get_by_role("meter", name="Tokens kept")
    expect(kept).to_have_attribute("aria-valuenow", re.compile("^(19|20)$"))
    slider = right.get_by_label("Budget", exact=True)
    slider.focus()
    slider.press("End")
    expect(kept).to_have_attribute("aria-valuenow", "100")
    expect(right.locator(".answer-text")).to_have_text(ANSWER)
    slider.press("Home")
    expect(kept).to_have_attribute("aria-valuenow", re.compile("^[12]$"))


def test_what_a_head_keeps_is_drawn_over_the_picture(page: Page) -> None:
    fill_playground(page)
    right = column(page, "Right")
    expect(right.locator(".kept")).to_be_hidden()
    page.get_by_label("Show what a head keeps").check()
    expect(page.get_by_text("It looks at pictures most of all")).to_be_visible()
    expect(right.get_by_text("Ask to see what is kept.")).to_be_visible()
    with page.expect_request(lambda request: "sparsemm" in (request.post_data or "")) as asked:
        page.get_by_role("button", name="Ask both").click()
    body = asked.value.post_data_json
    layer, head = (int(page.get_by_label(name, exact=True).input_value()) for name in ("Layer", "Head"))
    assert body["parameters"]["kept"] == {"layer": layer, "kv_head": head // 2}
    figure = right.get_by_role("img", name=f"with what KV head {head // 2} of layer {layer} keeps")
    expect(figure).to_be_visible()
    assert right.locator(".kept-cells").get_attribute("d") == _boxes(page, body)
    expect(column(page, "Left").locator(".kept")).to_contain_text("keeps 320 of the picture’s 320 tokens")
    page.get_by_label("Layer", exact=True).select_option("0")  # another head asks again
    expect(right.locator(".kept")).to_contain_text(f"KV head {head // 2} of layer 0 keeps")
    expect(page.get_by_text(re.compile(r"Number \d+ of 36 at looking at pictures"))).to_be_visible()
    page.get_by_label("Show what a head keeps").uncheck()
    expect(right.locator(".kept")).to_be_hidden()


def test_what_only_one_selector_keeps_is_told_from_what_both_keep(page: Page) -> None:
    fill_playground(page)
    page.get_by_label("Show what a head keeps").check()
    column(page, "Left").get_by_label("Method").select_option("sparsemm")
    column(page, "Left").get_by_label("Budget", exact=True).fill("20")
    column(page, "Right").get_by_label("Which tokens").select_option("last-query")
    asked: list[dict[str, Any]] = []
    page.on("request", lambda sent: asked.append(sent.post_data_json) if "/generate" in sent.url else None)
    page.get_by_role("button", name="Ask both").click()
    section = page.get_by_role("region", name="What the columns keep, on one picture")
    expect(section).to_contain_text("of them are the same")
    kept = [_kept(page, body) for body in asked]
    left, right = (set(one["positions"]) for one in kept)
    start = kept[0]["pictures"][0]["start"]
    image = set(range(start, start + kept[0]["pictures"][0]["tokens"]))
    for part, tokens in (("both", left & right), ("first", left - right), ("second", right - left)):
        row = section.locator(f"[data-part={part}]")
        assert row.locator("td").all_inner_texts() == [str(len(tokens & image)), str(len(tokens - image))]
        expect(section.locator(f"path.difference-{part}")).to_be_visible()
    section.get_by_label("by both").press("Space")
    expect(section.locator("path.difference-both")).to_be_hidden()
    page.get_by_label("Question", exact=True).fill("What is the value of QNT?")  # of one column alone
    column(page, "Right").get_by_label("Which tokens").select_option("mixkv")
    expect(section).to_contain_text("Ask to see the difference")


def _kept(page: Page, body: dict[str, Any]) -> dict[str, Any]:
    """What the service tells for the same request."""
    answer = page.request.post(
        "/dashboard/api/generate", data={**body, "stream": False}, headers={"X-Requested-With": "headmap"}
    )
    return answer.json()["details"]["kept"]


def _boxes(page: Page, body: dict[str, Any]) -> str:
    """The kept cells of the same request, as the page draws them."""
    (picture,) = _kept(page, body)["pictures"]
    x, y, boxes = picture["x"], picture["y"], []
    for row, cells in enumerate(picture["cells"]):
        for run in re.finditer("1+", "".join("01"[kept] for kept in cells)):
            x0, x1 = x[run.start()], x[run.end()]
            boxes.append(f"M{x0:g},{y[row]:g}H{x1:g}V{y[row + 1]:g}H{x0:g}Z")
    return "".join(boxes)


def test_a_picture_is_asked_for_before_anything_is_sent(page: Page) -> None:
    show(page, "playground")
    expect(page.get_by_label("Model", exact=True)).to_be_enabled()
    page.get_by_label("Question", exact=True).fill(QUESTION)
    page.get_by_role("button", name="Ask both").click()
    expect(page.get_by_role("alert")).to_contain_text("A picture is needed")
    expect(page.get_by_role("alert")).to_contain_text("no_image")
    page.get_by_role("button", name="Sample page").click()
    expect(page.get_by_role("alert")).to_have_count(0)


def test_a_sample_page_brings_its_question_and_its_answer(page: Page) -> None:
    show(page, "playground")
    expect(page.get_by_label("Model", exact=True)).to_be_enabled()
    page.get_by_role("button", name="Sample page").click()
    expect(page.get_by_label("Question", exact=True)).to_have_value(re.compile("What is the value of"))
    page.get_by_role("button", name="Ask both").click()
    expect(column(page, "Left").locator(".tag")).to_have_text("right")


def test_nothing_jumps_while_an_answer_comes(page: Page) -> None:
    fill_playground(page)
    before = page.get_by_role("region", name="Right answer").bounding_box()
    page.get_by_role("button", name="Ask both").click()
    expect(column(page, "Left").locator(".answer-text")).to_have_text(ANSWER)
    after = page.get_by_role("region", name="Right answer").bounding_box()
    assert (before["x"], before["y"], before["height"]) == (after["x"], after["y"], after["height"])


def test_a_file_that_is_no_picture_is_told_before_it_is_sent(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "page.png"
    file.write_text("this is no picture")
    show(page, "playground")
    page.locator("#file").set_input_files(file)
    expect(page.get_by_role("alert")).to_contain_text("This is not a picture we can read")
    expect(page.get_by_role("alert")).to_contain_text("invalid_image")


def test_a_picture_is_pasted(page: Page) -> None:
    show(page, "playground")
    page.evaluate(
        """(encoded) => {
            const bytes = Uint8Array.from(atob(encoded), (character) => character.charCodeAt(0));
            const data = new DataTransfer();
            data.items.add(new File([bytes], "pasted.png", { type: "image/png" }));
            document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data }));
        }""",
        base64.b64encode(PICTURE.read_bytes()).decode(),
    )
    expect(page.get_by_text("pasted.png, 320 × 256")).to_be_visible()
