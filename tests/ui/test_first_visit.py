"""A newcomer's first visit: the bundled map, and profiles from the form to the heatmap."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from headmap.settings import DEMO_MODEL
from tests.ui.steps import SLOW, show

pytestmark = [pytest.mark.ui, pytest.mark.timeout(900)]


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
