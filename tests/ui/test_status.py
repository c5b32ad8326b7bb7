"""The status, which counts what the tests before it left."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from headmap.settings import DEMO_MODEL
from tests.ui.steps import show

pytestmark = [pytest.mark.ui, pytest.mark.timeout(900)]


def test_the_status_shows_services_requests_and_memory(page: Page) -> None:
    show(page, "status")
    expect(page.get_by_role("row", name=re.compile("ready"))).to_contain_text("registry: ok")
    expect(page.get_by_role("meter", name=DEMO_MODEL)).to_be_visible()
    expect(page.get_by_text("5 succeeded")).to_be_visible()
    expect(page.get_by_text("3 cancelled", exact=True)).to_be_visible()
