"""The API's own page."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.ui.steps import show

pytestmark = [pytest.mark.ui, pytest.mark.timeout(900)]


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
