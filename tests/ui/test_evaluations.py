"""An evaluation, from its form to a policy."""

from __future__ import annotations

import re

import httpx
import pytest
from playwright.sync_api import Page, expect

from headmap.settings import DEMO_MODEL
from tests.ui.conftest import Cluster
from tests.ui.steps import SLOW, show

pytestmark = [pytest.mark.ui, pytest.mark.timeout(900)]


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
