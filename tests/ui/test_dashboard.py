"""A newcomer's way through the dashboard, in order: from the bundled map to a service that goes away as it answers."""

from __future__ import annotations

import base64
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, expect

from headmap.models import DEMO_FOLDER
from headmap.scoring.pages import TRANSCRIBE_PROMPT
from headmap.settings import DEMO_MODEL
from services.dashboard.pages import PAGES
from tests.ui.conftest import KEY, OUT, ROOT, Cluster

expect.set_options(timeout=25_000)

pytestmark = [pytest.mark.ui, pytest.mark.timeout(900)]

PICTURE = ROOT / "shared" / "headmap" / "demo" / "samples" / "0000.png"
QUESTION, ANSWER = "What is the value of BXP?", "K5QB62Z"
SLOW = 300_000
"""Milliseconds that a profile may take on a busy machine."""
SIZES = {"1280": (1280, 900), "390": (390, 844)}
THEMES = ("light", "dark")
PATHS = {page.name: page.path for page in PAGES}


@pytest.fixture
def page(browser: Browser, dashboard: str) -> Iterator[Page]:
    """A page at the dashboard's address; a mistake in its scripts fails the test."""
    context = browser.new_context(base_url=dashboard, viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    opened.set_default_timeout(25_000)
    mistakes: list[str] = []
    opened.on("pageerror", lambda error: mistakes.append(str(error)))
    opened.on("console", lambda message: mistakes.append(message.text) if "page_error" in message.text else None)
    yield opened
    context.close()
    assert mistakes == []


def show(page: Page, name: str) -> None:
    page.goto(PATHS[name])
    expect(page.locator(".page-head h1")).to_have_count(1)


def fill_playground(page: Page, question: str = QUESTION) -> None:
    show(page, "playground")
    expect(page.get_by_label("Model", exact=True)).to_be_enabled()
    page.locator("#file").set_input_files(PICTURE)
    expect(page.get_by_text("0000.png, 320 × 256")).to_be_visible()
    page.get_by_label("Question", exact=True).fill(question)


def column(page: Page, name: str) -> Locator:
    return page.get_by_role("region", name=f"{name} answer")


# ---- a first visit


def test_a_first_visit_finds_the_bundled_map_and_no_jobs(page: Page) -> None:
    show(page, "maps")
    expect(page.get_by_role("heading", name=f"{DEMO_MODEL}, version 1")).to_be_visible()
    for alias in ("bundled", "default"):
        expect(page.locator("#map .tag", has_text=alias)).to_be_visible()
    show(page, "jobs")
    expect(page.get_by_role("heading", name="No jobs yet")).to_be_visible()


def test_a_job_is_cancelled_and_tried_again(page: Page) -> None:
    show(page, "jobs")
    page.get_by_label("Model", exact=True).fill(DEMO_MODEL)
    page.get_by_role("spinbutton", name="Pages", exact=True).fill("500")
    page.get_by_role("button", name="Start", exact=True).click()
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("[data-state=cancelled]")).to_have_count(1)
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("[data-job]")).to_have_count(2)
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("[data-state=cancelled]")).to_have_count(2)


def test_a_model_that_is_not_here_is_told_with_its_code(page: Page) -> None:
    show(page, "jobs")
    page.get_by_label("Model", exact=True).fill("nobody/nothing")
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("There is no such model here")
    expect(page.get_by_role("alert")).to_contain_text("model_not_found")


def test_from_the_form_to_the_heatmap(page: Page) -> None:
    show(page, "jobs")
    for seed in ("0", "1"):
        page.get_by_label("Model", exact=True).fill(DEMO_MODEL)
        page.get_by_role("spinbutton", name="Pages", exact=True).fill("4")
        if not page.get_by_label("Seed of the pages").is_visible():
            page.get_by_text("More", exact=True).click()
        page.get_by_label("Seed of the pages").fill(seed)
        page.get_by_role("button", name="Start", exact=True).click()
    expect(page.locator("[data-state=succeeded]")).to_have_count(2, timeout=SLOW)
    page.get_by_role("link", name="Open the map").first.click()
    grid = page.get_by_role("grid", name=re.compile("Head scores of"))
    expect(grid.get_by_role("gridcell")).to_have_count(36)
    expect(page.get_by_text("hold")).to_contain_text("2 of 36")


# ---- maps


def test_heads_are_looked_at_with_the_mouse_and_with_the_keyboard(page: Page) -> None:
    show(page, "maps")
    card = page.locator(".head-card")
    cell = page.get_by_role("gridcell", name=re.compile("Layer 2, head 3"))
    cell.hover()
    for words in ("Layer2", "Head3", "KV head1", "95 % interval"):
        expect(card).to_contain_text(words)
    cell.click()
    cell.press("ArrowRight")
    expect(card).to_contain_text("Head4")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Layer 2, head 4 on a page")).to_be_visible()
    picture = page.get_by_role("img", name=re.compile("Page 0 of the profile.*layer 2, head 4"))
    expect(picture).to_be_visible()
    expect(picture).to_have_js_property("complete", True)
    assert picture.evaluate("image => image.naturalWidth") > 100


def test_heads_in_order_of_their_scores(page: Page) -> None:
    show(page, "maps")
    page.get_by_text("By score").click()
    shares = page.locator("table tbody tr td:last-child").all_inner_texts()
    numbers = [float(text.removesuffix(" %")) for text in shares]
    assert numbers == sorted(numbers)
    assert len(numbers) == 20


def test_an_alias_is_moved(page: Page, cluster: Cluster) -> None:
    show(page, "maps")
    page.get_by_role("button", name="Move an alias here").click()
    page.get_by_label("Alias", exact=True).fill("stable")
    page.get_by_role("button", name="Move", exact=True).click()
    expect(page.locator("#map .tag", has_text="stable")).to_be_visible()
    first = httpx.get(f"{cluster.url}/maps/resolve", params={"model": DEMO_MODEL, "alias": "stable"}).json()
    page.get_by_role("link", name=re.compile("^Version 2")).click()
    expect(page.get_by_role("heading", name=f"{DEMO_MODEL}, version 2")).to_be_visible()
    page.get_by_role("button", name="Move an alias here").click()
    page.get_by_label("Alias", exact=True).fill("stable")
    expect(page.get_by_text(f"It points at version {first['version']} now, moved")).to_be_visible()
    page.get_by_role("button", name="Move", exact=True).click()
    expect(page.locator("#map .tag", has_text="stable")).to_be_visible()
    moved = httpx.get(f"{cluster.url}/maps/resolve", params={"model": DEMO_MODEL, "alias": "stable"}).json()
    assert (first["version"], moved["version"]) == (3, 2)


def test_a_map_is_exported_and_imported_and_equals_itself(page: Page, tmp_path: Path) -> None:
    show(page, "maps")
    with page.expect_download() as download:
        page.get_by_role("link", name="Export").click()
    file = tmp_path / "scores.json"
    download.value.save_as(file)
    page.get_by_role("button", name="Import").click()
    page.get_by_label("Map file").set_input_files(file)
    page.get_by_role("dialog").get_by_role("button", name="Import").click()
    expect(page.get_by_role("heading", name=f"{DEMO_MODEL}, version 4")).to_be_visible()
    expect(page.locator(".facts")).to_contain_text("of another registry")
    expect(page.locator(".head-card")).not_to_contain_text("not known")
    page.get_by_label("Compare with").select_option(label=_version(page, 3))
    expect(page.locator(".figures", has_text="Rank correlation")).to_contain_text("1.000")
    expect(page.get_by_role("grid")).to_have_count(3)


def _version(page: Page, number: int) -> str:
    options = page.get_by_label("Compare with").locator("option").all_inner_texts()
    return next(text for text in options if f"version {number}" in text)


def test_a_file_that_is_no_map_stays_in_its_dialog(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "scores.json"
    file.write_text("not json")
    show(page, "maps")
    page.get_by_role("button", name="Import").click()
    page.get_by_label("Map file").set_input_files(file)
    page.get_by_role("dialog").get_by_role("button", name="Import").click()
    expect(page.get_by_role("alert")).to_contain_text("invalid_scores")


def test_a_published_file_needs_its_model_named(page: Page, cluster: Cluster, tmp_path: Path) -> None:
    file = tmp_path / "scores.json"
    file.write_text('{"0-0": [1.0, 2.0], "0-1": 0.5}')
    show(page, "maps")
    page.get_by_role("button", name="Import").click()
    page.get_by_label("Map file").set_input_files(file)
    page.get_by_label("Model", exact=True).fill("some/published")
    page.get_by_label("KV heads in a layer").fill("1")
    page.get_by_role("dialog").get_by_role("button", name="Import").click()
    expect(page.get_by_role("heading", name="some/published, version 1")).to_be_visible()
    expect(page.locator(".facts")).to_contain_text("an import of unknown origin")
    expect(page.locator(".head-card")).to_contain_text("not known")
    page.get_by_label("Search").fill("PUBLISHED")
    expect(page.get_by_role("link", name=re.compile("^Version"))).to_have_count(1)
    page.get_by_label("Search").fill("no such map")
    expect(page.get_by_role("status").filter(has_text="No map has this")).to_be_visible()
    (made,) = httpx.get(f"{cluster.url}/maps", params={"model": "some/published"}).json()["items"]
    for path in (f"{made['id']}/aliases/default", made["id"]):  # the tests after it choose among the others
        assert httpx.delete(f"{cluster.url}/maps/{path}").status_code == 204


# ---- evaluations


def test_an_evaluation_is_started_read_and_served(page: Page, cluster: Cluster) -> None:
    show(page, "evaluations")
    page.get_by_label("Model", exact=True).fill(DEMO_MODEL)
    page.get_by_role("spinbutton", name="Questions").fill("40")
    page.get_by_label("Shares of the prompt to keep, %").fill("10, 40")
    for selector in ("snapkv", "last-query"):
        page.get_by_role("checkbox", name=selector, exact=True).check()
    page.get_by_text("More", exact=True).click()
    page.get_by_label("Margin: a loss below it is none").fill("0.2")
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.locator("[data-state=succeeded]")).to_have_count(1, timeout=SLOW)
    figures = page.get_by_role("region", name="Every method and share").get_by_role("row")
    expect(figures).to_have_count(10)
    expect(page.locator("[data-case='Full cache']")).to_contain_text("of 40")
    expect(page.locator("[data-case='SparseMM at 40 %, last-query']")).to_contain_text("of 40")
    answers = page.locator("[data-question]")
    expect(answers.first).to_contain_text("Full cache")
    assert answers.first.locator("img").evaluate("async (image) => (await image.decode(), image.naturalWidth)") > 0
    page.get_by_role("button", name="Serve this").click()
    page.get_by_label("Name of the policy").fill("tried")
    page.get_by_role("button", name="Serve it").click()
    expect(page.get_by_text(f"Served as {DEMO_MODEL}@tried, version 1.")).to_be_visible()
    served = httpx.get(f"{cluster.url}/policies/{DEMO_MODEL}/tried").json()["kv"]["select"]
    assert served in ("snapkv", "last-query")
    show(page, "budgets")
    expect(page.get_by_role("img", name=re.compile("Share of right answers"))).to_be_visible()
    expect(page.locator("[data-policy=tried]")).to_be_visible()
    httpx.delete(f"{cluster.url}/policies/{DEMO_MODEL}/tried").raise_for_status()


def test_a_dataset_that_is_not_there_is_told_with_its_field(page: Page) -> None:
    show(page, "evaluations")
    page.get_by_label("Dataset").fill("nothing")
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("dataset_not_found")


# ---- budgets


def test_a_smaller_budget_lets_more_requests_fit(page: Page) -> None:
    show(page, "budgets")
    page.get_by_label("KV memory, GiB").fill("0.002")
    page.get_by_label("Tokens of an answer").fill("0")
    fits = page.locator(".tile", has_text="Requests at a time").locator(".tile-value")
    expect(page.locator(".tile", has_text="With the full cache").locator(".tile-value")).to_have_text("2")
    before = int(fits.inner_text().replace(",", ""))
    slider = page.get_by_label("Budget", exact=True)
    slider.focus()
    slider.press("Home")
    kept = page.locator(".tile", has_text="Prompt kept").locator(".tile-value")
    expect(kept).to_have_text(re.compile(r"^[1-9]\.\d %$"))
    expect(fits).not_to_have_text(f"{before:,}")
    assert int(fits.inner_text().replace(",", "")) > before
    expect(page.get_by_role("gridcell")).to_have_count(18)
    page.get_by_role("gridcell").first.hover()
    expect(page.locator("#here")).to_contain_text("Layer 0, KV head 0")


def test_a_policy_is_asked_in_the_playground_and_deleted_with_the_budgets(page: Page, cluster: Cluster) -> None:
    where = f"{cluster.url}/policies/{DEMO_MODEL}/documents"
    httpx.put(where, json={"kv": {"method": "snapkv", "ratio": 0.3}}).raise_for_status()
    # Who asks for a policy by its name has it at once; the list of models follows the registry seconds later.
    httpx.get(f"{cluster.url}/v1/models/{DEMO_MODEL}@documents").raise_for_status()
    fill_playground(page)
    right = column(page, "Right")
    right.get_by_label("Method").select_option(label="documents")
    expect(right).to_contain_text("snapkv, 30.0 %, version 1")
    expect(page.get_by_label("Model", exact=True).locator("option")).to_have_count(1)
    page.get_by_role("button", name="Ask both").click()
    expect(right.get_by_role("meter", name="Tokens kept")).to_have_attribute("aria-valuetext", re.compile("of"))
    expect(right).to_contain_text(ANSWER)
    page.screenshot(path=OUT / "policy-playground.png")
    show(page, "budgets")
    row = page.locator("[data-policy=documents]")
    expect(row).to_contain_text("snapkv, 30.0 %")
    row.scroll_into_view_if_needed()
    page.screenshot(path=OUT / "policy-budgets.png")
    row.get_by_role("button", name="Delete documents").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete", exact=True).click()
    expect(page.locator("#policies")).to_contain_text("No policies")
    assert httpx.get(where).status_code == 404


def test_a_budget_goes_on_to_a_head_and_to_a_policy_with_its_selector(page: Page, cluster: Cluster) -> None:
    show(page, "budgets")
    page.get_by_label("Which tokens", exact=True).select_option("last-query")
    told = page.locator("#recent-hint")
    expect(told).to_contain_text("the last 8 tokens of the prompt. The last token says")
    page.get_by_label("Recent tokens, always kept").fill("2")
    expect(told).to_contain_text("the last 2 tokens of the prompt. The last token says")
    page.get_by_label("Beside the chosen tokens").select_option("mixkv")
    asked: list[dict[str, Any]] = []
    page.on("request", lambda sent: asked.append(sent.post_data_json) if "/generate" in sent.url else None)
    page.get_by_role("gridcell").first.focus()
    for key in ["ArrowDown"] * 4 + ["ArrowRight"] * 2 + ["Enter"]:
        page.keyboard.press(key)
    section = page.get_by_role("region", name="Which tokens, on a page")
    expect(section.locator("[data-part=first]")).to_contain_text("SparseMM, last-query")
    expect(section.locator("[data-part=second]")).to_contain_text("SparseMM, mixkv")
    assert [one["parameters"]["kv"]["select"] for one in asked] == ["last-query", "mixkv"]
    assert [one["parameters"]["kept"] for one in asked] == [{"layer": 4, "kv_head": 2}] * 2
    page.get_by_role("button", name="Make a policy of this").click()
    page.get_by_label("Name of the policy").fill("looked-at")
    page.get_by_role("button", name="Serve it").click()
    expect(page.locator("[data-policy=looked-at]")).to_contain_text("last-query")
    where = f"{cluster.url}/policies/{DEMO_MODEL}/looked-at"
    kv = asked[0]["parameters"]["kv"]
    written = {"select": "last-query", "ratio": 0.1, "map": kv["map"], "keep_recent": 2}
    assert httpx.get(where).json()["kv"].items() >= written.items()
    httpx.delete(where).raise_for_status()


# ---- jobs that need more than a first visit


def test_a_profile_that_reads_as_many_pages_as_it_takes(page: Page) -> None:
    show(page, "jobs")
    page.get_by_label("Model", exact=True).fill(DEMO_MODEL)
    page.get_by_text("As many as it takes").click()
    expect(page.get_by_role("spinbutton", name="Pages", exact=True)).to_be_hidden()
    page.get_by_label("At least").fill("4")
    page.get_by_label("At most", exact=True).fill("8")
    page.get_by_label("Overlap, %").fill("0")
    page.get_by_role("button", name="Start", exact=True).click()
    job = page.locator("[data-job]").first
    expect(job).to_contain_text("4 to 8 pages, until 0 % of the top heads agree, of synthetic")
    expect(job).to_have_attribute("data-state", "succeeded", timeout=SLOW)
    expect(job.get_by_role("meter", name="Pages read")).to_have_attribute("aria-valuetext", re.compile("4 of 4"))


def test_why_a_job_waits_is_told_and_it_is_tried_again(page: Page, cluster: Cluster) -> None:
    file = shutil.copytree(DEMO_FOLDER, cluster.models / "broken") / "preprocessor_config.json"
    whole = file.read_text()
    file.write_text(whole[:20])
    show(page, "jobs")
    page.get_by_label("Model", exact=True).fill("broken")
    page.get_by_role("spinbutton", name="Pages", exact=True).fill("2")
    page.get_by_role("button", name="Start", exact=True).click()
    job = page.locator("[data-job]", has_text="broken")
    expect(job).to_contain_text("It waits: no worker", timeout=SLOW)
    job.get_by_role("button", name="Cancel").click()
    file.write_text(whole)
    job.get_by_role("button", name="Try again").click()
    expect(page.locator("[data-state=succeeded]", has_text="broken")).to_have_count(1, timeout=SLOW)


# ---- playground


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


# ---- status


def test_the_status_shows_services_requests_and_memory(page: Page) -> None:
    show(page, "status")
    expect(page.get_by_role("row", name=re.compile("ready"))).to_contain_text("registry: ok")
    expect(page.get_by_role("meter", name=DEMO_MODEL)).to_be_visible()
    expect(page.get_by_text("5 succeeded")).to_be_visible()
    expect(page.get_by_text("3 cancelled", exact=True)).to_be_visible()


# ---- keys and the API's own page


def test_a_key_is_asked_for_once_and_kept_out_of_the_browser(browser: Browser, locked: tuple[str, Path]) -> None:
    url, folder = locked
    context = browser.new_context(base_url=url)
    page = context.new_page()
    page.set_default_timeout(25_000)
    seen: list[str] = []
    page.on("request", lambda request: seen.append(request.url))
    show(page, "maps")
    dialog = page.get_by_role("dialog", name="API key")
    dialog.get_by_label("Key").fill("a-wrong-one")
    dialog.get_by_role("button", name="Continue").click()
    expect(dialog.get_by_role("alert")).to_contain_text("The server does not know this key")
    dialog.get_by_label("Key").fill(KEY)
    dialog.get_by_role("button", name="Continue").click()
    expect(page.get_by_role("heading", name="No maps yet")).to_be_visible()
    expect(page.get_by_role("link", name="Profile a model")).to_be_visible()
    for name, words in (("jobs", "No jobs yet"), ("budgets", "No maps yet")):  # not asked again
        show(page, name)
        expect(page.get_by_role("heading", name=words)).to_be_visible()
        expect(dialog).to_have_count(0)
    show(page, "docs")
    expect(page.get_by_text("/score", exact=True).first).to_be_visible()
    stored = page.evaluate("JSON.stringify([localStorage, sessionStorage, document.cookie])")
    assert "headmap_session" not in stored
    texts = [*seen, stored, page.content(), *(log.read_text() for log in folder.glob("*.log"))]
    assert not [text for text in texts if KEY in text]
    page.get_by_role("button", name="Forget key").click()
    expect(dialog).to_be_visible()
    context.close()


def test_the_apis_page_needs_nothing_from_elsewhere_and_tries_calls_out(page: Page, dashboard: str) -> None:
    seen: list[str] = []
    page.on("request", lambda request: seen.append(request.url))
    refused: list[str] = []
    page.on("console", lambda message: refused.append(message.text) if "Content Security" in message.text else None)
    show(page, "docs")
    page.locator("#operations-maps-listing_maps_get").get_by_role("button").first.click()
    page.get_by_role("button", name="Try it out").click()
    page.get_by_role("button", name="Execute").click()
    expect(page.locator(".live-responses-table .response .response-col_status").first).to_contain_text("200")
    assert [one for one in seen if not one.startswith((dashboard, "data:", "blob:"))] == []
    assert refused == []


# ---- every page, in both themes, wide and narrow


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", PATHS)
def test_pages_look_right_and_can_be_read_by_all(
    browser: Browser, dashboard: str, name: str, size: str, theme: str
) -> None:
    width, height = SIZES[size]
    context = browser.new_context(
        base_url=dashboard, viewport={"width": width, "height": height}, color_scheme=theme, reduced_motion="reduce"
    )
    page = context.new_page()
    page.set_default_timeout(25_000)
    if name == "playground":
        show(page, name)
        expect(page.get_by_label("Model", exact=True)).to_be_enabled()
        page.get_by_label("Show what a head keeps").check()
        page.get_by_role("button", name="Sample page").click()
        expect(page.get_by_label("Question", exact=True)).to_have_value(re.compile("What is"))
        page.get_by_role("button", name="Ask both").click()
        expect(page.locator(".answer-details.stale")).to_have_count(0)
        expect(page.get_by_text("tokens and")).to_have_count(2)
    else:
        show(page, name)
    if name == "maps":
        page.get_by_role("link", name=re.compile("^Version 3")).click()  # the newest is an import, which has no pages
        expect(page.get_by_role("heading", name=f"{DEMO_MODEL}, version 3")).to_be_visible()
        page.get_by_role("button", name="Show where it looked").click()
        expect(page.locator(".head-page")).to_be_visible()
        page.get_by_label("Compare with").select_option(index=1)
        expect(page.get_by_role("grid")).to_have_count(3)
    expect(page.locator("[aria-busy]")).to_have_count(0)
    page.wait_for_load_state("networkidle") if name not in ("status", "jobs") else page.wait_for_timeout(500)
    page.evaluate("scrollTo(0, 0)")
    OUT.mkdir(exist_ok=True)
    page.screenshot(path=OUT / f"{name}-{theme}-{size}.png", full_page=name != "docs")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # Swagger UI's own elements are not ours to mend
    found = Axe().run(page, context={"exclude": [[".swagger-ui"]]}).response["violations"]
    serious = [one for one in found if one["impact"] in ("serious", "critical")]
    assert [(one["id"], [node["html"] for node in one["nodes"]][:3]) for one in serious] == []
    context.close()


def test_the_theme_is_kept(page: Page) -> None:
    show(page, "status")
    before = page.locator("html").get_attribute("data-theme")
    page.get_by_role("button", name="Dark theme").click()
    show(page, "jobs")
    assert page.locator("html").get_attribute("data-theme") != before


# ---- and at the end, everything goes away


def test_a_service_killed_while_it_answers_is_told_and_found_again(page: Page, cluster: Cluster) -> None:
    fill_playground(page, TRANSCRIBE_PROMPT)
    page.get_by_text("More", exact=True).click()
    page.get_by_label("new tokens").fill("2000")
    page.get_by_role("button", name="Ask both").click()
    both = [column(page, name) for name in ("Left", "Right")]
    for one in both:
        expect(one.locator(".answer-text")).to_have_text(re.compile(r"\S{3}"))
    cluster.kill()
    for one in both:
        said = one.locator(".answer-text").inner_text()
        expect(one.get_by_role("alert")).to_contain_text("The service cannot be reached", timeout=60_000)
        expect(one.get_by_role("alert")).to_contain_text("unavailable")
        expect(one.locator(".answer-text")).to_contain_text(said)
        expect(one.locator("[aria-busy]")).to_have_count(0)
    others = page.context.new_page()
    show(others, "status")
    expect(others.get_by_role("row", name=re.compile("unavailable"))).to_be_visible()
    show(others, "maps")
    expect(others.get_by_role("alert")).to_contain_text("unavailable")
    cluster.start()
    others.get_by_role("button", name="Try again").click()
    expect(others.get_by_role("gridcell").first).to_be_visible()
    page.get_by_label("Question", exact=True).fill(QUESTION)  # and the page that saw it go needs no reload
    both[0].get_by_role("button", name="Try again").click()
    expect(both[0].locator(".answer-text")).to_have_text(ANSWER)
    expect(both[0].get_by_role("alert")).to_have_count(0)
    page.get_by_role("button", name="Ask both").click()
    expect(both[1].get_by_role("alert")).to_have_count(0)
    expect(both[1].get_by_role("meter", name="Tokens kept")).to_have_attribute("aria-valuenow", re.compile("^(19|20)$"))
