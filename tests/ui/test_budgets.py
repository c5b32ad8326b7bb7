"""Budgets: what a smaller one is worth, and the policies made of one."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from headmap.settings import DEMO_MODEL
from tests.ui.conftest import OUT, Cluster
from tests.ui.steps import ANSWER, column, fill_playground, show

pytestmark = [pytest.mark.ui, pytest.mark.timeout(900)]


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
