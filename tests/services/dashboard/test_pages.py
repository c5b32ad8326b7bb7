"""The pages answer, hold together, and load nothing from elsewhere; a browser looks at them in tests/ui."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from services.dashboard.pages import FOLDER, PAGES, Page

STATIC = FOLDER / "static"
SCRIPTS = sorted((STATIC / "js").rglob("*.js"))
EXPORT = re.compile(r"^export (?:async )?(?:function\*?|class|const) (\w+)", re.MULTILINE)


class Reader(HTMLParser):
    """Tags in order, with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def values(self, attribute: str) -> list[str]:
        return [value for _, found in self.tags if (value := found.get(attribute)) is not None]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_answers_and_holds_together(page: Page, client: TestClient) -> None:
    response = client.get(page.path)
    assert response.status_code == 200
    assert "default-src 'none'" in response.headers["content-security-policy"]
    reader = Reader(response.text)
    tags = [tag for tag, _ in reader.tags]
    assert tags.count("h1") == 1
    assert len(reader.values("id")) == len(set(reader.values("id")))
    assert set(reader.values("for")) <= set(reader.values("id"))
    current = [found["href"] for tag, found in reader.tags if "aria-current" in found]
    assert current == [page.path]
    for path in [value for value in reader.values("href") + reader.values("src") if value.startswith("/dashboard")]:
        assert client.get(path).status_code == 200, path


def test_pages_and_styles_load_nothing_from_elsewhere() -> None:
    for path in [*FOLDER.rglob("*.html"), *FOLDER.rglob("*.css"), *SCRIPTS]:
        found = re.findall(r"https?://(?!www\.w3\.org/2000/svg)\S+", path.read_text())
        assert found == [], path


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_import_what_is_there(script: Path) -> None:
    text = script.read_text()
    for names, source in re.findall(r"import \{([^}]*)\} from \"([^\"]+)\"", text):
        exported = set(EXPORT.findall((script.parent / source).resolve().read_text()))
        wanted = {name.strip() for name in names.split(",") if name.strip()}
        assert wanted <= exported, f"{script.name}: {wanted - exported} of {source}"
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text), "text goes in as text"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_scripts_look_for_is_on_their_page(page: Page, client: TestClient) -> None:
    ids = set(Reader(client.get(page.path).text).values("id"))
    folder = STATIC / "js"
    own = [folder / "pages" / f"{page.name}.js", *sorted((folder / page.name).glob("*.js"))]
    wanted = {name for path in own for name in re.findall(r"byId\(\"([^\"]+)\"\)", path.read_text())}
    assert wanted <= ids


def test_a_sample_page_is_the_one_that_its_questions_are_about(client: TestClient) -> None:
    about = client.get("/dashboard/samples/0").json()
    picture = client.get("/dashboard/samples/0/picture.png")
    assert picture.headers["content-type"] == "image/png"
    assert picture.content.startswith(b"\x89PNG")
    assert (about["width"], about["height"]) == tuple(int.from_bytes(picture.content[at : at + 4]) for at in (16, 20))
    assert all(one["question"] and one["answer"] for one in about["questions"])


def test_what_is_not_there_is_a_problem(client: TestClient) -> None:
    for path in ("/dashboard/nothing", "/dashboard/samples/100", "/dashboard/static/../app.py"):
        assert client.get(path).status_code in (404, 422)
