"""At the end everything goes away: a service is killed while it answers."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from headmap.scoring.pages import TRANSCRIBE_PROMPT
from tests.ui.conftest import Cluster
from tests.ui.steps import ANSWER, QUESTION, column, fill_playground, show

pytestmark = [pytest.mark.ui, pytest.mark.timeout(900)]


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
