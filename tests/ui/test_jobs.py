"""Jobs that need more than a first visit."""

from __future__ import annotations

import re
import shutil

import pytest
from playwright.sync_api import Page, expect

from headmap.models import DEMO_FOLDER
from headmap.settings import DEMO_MODEL
from tests.ui.conftest import Cluster
from tests.ui.steps import SLOW, show

pytestmark = [pytest.mark.ui, pytest.mark.timeout(900)]


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
