"""Steps that several pages' tests take. It imports playwright, so conftest.py may not import it."""

from __future__ import annotations

from playwright.sync_api import Locator, Page, expect

from services.dashboard.pages import PAGES
from tests.ui.conftest import ROOT

expect.set_options(timeout=25_000)

PICTURE = ROOT / "shared" / "headmap" / "demo" / "samples" / "0000.png"
QUESTION, ANSWER = "What is the value of BXP?", "K5QB62Z"
SLOW = 300_000
"""Milliseconds that a profile may take on a busy machine."""
PATHS = {page.name: page.path for page in PAGES}


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
