"""The guide: the site of the documentation, open to all, whose inline scripts run by their hashes alone."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError

from headmap.settings import Settings
from services.dashboard.app import create_app
from services.dashboard.state import Addresses

SCRIPT = "document.title = 'guide'"


@pytest.fixture
def guide(tmp_path: Path) -> TestClient:
    (tmp_path / "index.html").write_text(f"<!DOCTYPE html><title></title><script>{SCRIPT}</script>")
    (tmp_path / "search.js").write_text("1")
    settings = Settings(data_dir=tmp_path / "data", guide_dir=tmp_path)
    return TestClient(create_app(settings, Addresses("http://nowhere.test", ("http://nowhere.test",))))


@pytest.mark.parametrize("path", ["/guide", "/guide/", "/guide/index.html"])
def test_it_begins_with_its_index(guide: TestClient, path: str) -> None:
    answer = guide.get(path)
    assert answer.status_code == 200
    assert answer.url.path == "/guide/index.html"
    assert SCRIPT in answer.text


@pytest.mark.parametrize("path", ["/guide/index.html", "/guide/search.js"])
def test_its_files_carry_the_headers_of_a_page(guide: TestClient, path: str) -> None:
    headers = guide.get(path).headers
    policy = headers["content-security-policy"]
    scripts = next(part for part in policy.split("; ") if part.startswith("script-src")).split()[1:]
    assert scripts == ["'self'", f"'sha256-{b64encode(sha256(SCRIPT.encode()).digest()).decode()}'"]
    assert "frame-ancestors 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff"


def test_nothing_beside_it_is_served(guide: TestClient, tmp_path: Path) -> None:
    (tmp_path.parent / "beside.txt").write_text("secret")
    assert guide.get("/guide/%2e%2e/beside.txt").status_code == 404


def test_the_pages_link_to_it_only_where_it_is(guide: TestClient, client: TestClient) -> None:
    assert 'href="/guide"' in guide.get("/").text
    assert 'href="/guide"' not in client.get("/").text
    assert client.get("/guide").status_code == 404


def test_a_folder_without_a_site_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"holds no index\.html"):
        Settings(guide_dir=tmp_path)
