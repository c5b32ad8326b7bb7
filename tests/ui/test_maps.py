"""The maps: heads one by one and in order, aliases, files that leave and come."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect

from headmap.settings import DEMO_MODEL
from tests.ui.conftest import Cluster
from tests.ui.steps import show

pytestmark = [pytest.mark.ui, pytest.mark.timeout(900)]


def test_heads_are_looked_at_with_the_mouse_and_with_the_keyboard(page: Page) -> None:
    show(page, "maps")
    card = page.locator(".head-card")
    cell = page.get_by_role("gridcell", name=re.compile("Layer 2, head 3"))
    cell.hover()
    for words in ("Layer2", "Head3", "KV head1", "95 % interval"):
        expect(card).to_contain_text(words)
    cell.click()
    cell.press("ArrowRight")
    expect(card).to_contain_text("Head4")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Layer 2, head 4 on a page")).to_be_visible()
    picture = page.get_by_role("img", name=re.compile("Page 0 of the profile.*layer 2, head 4"))
    expect(picture).to_be_visible()
    expect(picture).to_have_js_property("complete", True)
    assert picture.evaluate("image => image.naturalWidth") > 100


def test_heads_in_order_of_their_scores(page: Page) -> None:
    show(page, "maps")
    page.get_by_text("By score").click()
    shares = page.locator("table tbody tr td:last-child").all_inner_texts()
    numbers = [float(text.removesuffix(" %")) for text in shares]
    assert numbers == sorted(numbers)
    assert len(numbers) == 20


def test_an_alias_is_moved(page: Page, cluster: Cluster) -> None:
    show(page, "maps")
    page.get_by_role("button", name="Move an alias here").click()
    page.get_by_label("Alias", exact=True).fill("stable")
    page.get_by_role("button", name="Move", exact=True).click()
    expect(page.locator("#map .tag", has_text="stable")).to_be_visible()
    first = httpx.get(f"{cluster.url}/maps/resolve", params={"model": DEMO_MODEL, "alias": "stable"}).json()
    page.get_by_role("link", name=re.compile("^Version 2")).click()
    expect(page.get_by_role("heading", name=f"{DEMO_MODEL}, version 2")).to_be_visible()
    page.get_by_role("button", name="Move an alias here").click()
    page.get_by_label("Alias", exact=True).fill("stable")
    expect(page.get_by_text(f"It points at version {first['version']} now, moved")).to_be_visible()
    page.get_by_role("button", name="Move", exact=True).click()
    expect(page.locator("#map .tag", has_text="stable")).to_be_visible()
    moved = httpx.get(f"{cluster.url}/maps/resolve", params={"model": DEMO_MODEL, "alias": "stable"}).json()
    assert (first["version"], moved["version"]) == (3, 2)


def test_a_map_is_exported_and_imported_and_equals_itself(page: Page, tmp_path: Path) -> None:
    show(page, "maps")
    with page.expect_download() as download:
        page.get_by_role("link", name="Export").click()
    file = tmp_path / "scores.json"
    download.value.save_as(file)
    page.get_by_role("button", name="Import").click()
    page.get_by_label("Map file").set_input_files(file)
    page.get_by_role("dialog").get_by_role("button", name="Import").click()
    expect(page.get_by_role("heading", name=f"{DEMO_MODEL}, version 4")).to_be_visible()
    expect(page.locator(".facts")).to_contain_text("of another registry")
    expect(page.locator(".head-card")).not_to_contain_text("not known")
    page.get_by_label("Compare with").select_option(label=_version(page, 3))
    expect(page.locator(".figures", has_text="Rank correlation")).to_contain_text("1.000")
    expect(page.get_by_role("grid")).to_have_count(3)


def _version(page: Page, number: int) -> str:
    options = page.get_by_label("Compare with").locator("option").all_inner_texts()
    return next(text for text in options if f"version {number}" in text)


def test_a_file_that_is_no_map_stays_in_its_dialog(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "scores.json"
    file.write_text("not json")
    show(page, "maps")
    page.get_by_role("button", name="Import").click()
    page.get_by_label("Map file").set_input_files(file)
    page.get_by_role("dialog").get_by_role("button", name="Import").click()
    expect(page.get_by_role("alert")).to_contain_text("invalid_scores")


def test_a_published_file_needs_its_model_named(page: Page, cluster: Cluster, tmp_path: Path) -> None:
    file = tmp_path / "scores.json"
    file.write_text('{"0-0": [1.0, 2.0], "0-1": 0.5}')
    show(page, "maps")
    page.get_by_role("button", name="Import").click()
    page.get_by_label("Map file").set_input_files(file)
    page.get_by_label("Model", exact=True).fill("some/published")
    page.get_by_label("KV heads in a layer").fill("1")
    page.get_by_role("dialog").get_by_role("button", name="Import").click()
    expect(page.get_by_role("heading", name="some/published, version 1")).to_be_visible()
    expect(page.locator(".facts")).to_contain_text("an import of unknown origin")
    expect(page.locator(".head-card")).to_contain_text("not known")
    page.get_by_label("Search").fill("PUBLISHED")
    expect(page.get_by_role("link", name=re.compile("^Version"))).to_have_count(1)
    page.get_by_label("Search").fill("no such map")
    expect(page.get_by_role("status").filter(has_text="No map has this")).to_be_visible()
    (made,) = httpx.get(f"{cluster.url}/maps", params={"model": "some/published"}).json()["items"]
    for path in (f"{made['id']}/aliases/default", made["id"]):  # the tests after it choose among the others
        assert httpx.delete(f"{cluster.url}/maps/{path}").status_code == 204
