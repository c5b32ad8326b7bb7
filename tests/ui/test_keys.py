"""A key is asked for where one is needed."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.ui.conftest import KEY
from tests.ui.steps import show

pytestmark = [pytest.mark.ui, pytest.mark.timeout(900)]


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
