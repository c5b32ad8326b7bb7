"""Every page, in both themes, wide and narrow."""

from __future__ import annotations

import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from headmap.settings import DEMO_MODEL
from tests.ui.conftest import OUT
from tests.ui.steps import PATHS, show

pytestmark = [pytest.mark.ui, pytest.mark.timeout(900)]

SIZES = {"1280": (1280, 900), "390": (390, 844)}
THEMES = ("light", "dark")


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
