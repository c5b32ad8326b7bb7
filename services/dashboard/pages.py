"""The pages: each is a file of pages/ in a shared frame, whose links mark the current page."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template

from fastapi import APIRouter, FastAPI
from fastapi.responses import HTMLResponse

import headmap
from headmap.http.docs import SWAGGER_POLICY, SWAGGER_UI
from services.dashboard.static_files import CheckedFiles

FOLDER = Path(__file__).parent

# A page uses only files from here; it can load, frame and send nothing else.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "manifest-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
)


@dataclass(frozen=True)
class Page:
    name: str
    path: str
    title: str
    section: bool = True
    """Whether the list of sections names it."""
    policy: str = POLICY


PAGES = (
    Page("playground", "/", "Playground"),
    Page("maps", "/dashboard/maps", "Maps"),
    Page("budgets", "/dashboard/budgets", "Budgets"),
    Page("jobs", "/dashboard/jobs", "Jobs"),
    Page("evaluations", "/dashboard/evaluations", "Evaluations"),
    Page("status", "/dashboard/overview", "Status"),
    Page("docs", "/docs", "API", section=False, policy=SWAGGER_POLICY),
)

_HEADERS = {
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


def mount_pages(app: FastAPI, *, guide: bool = False) -> None:
    """Put the pages and what they load on `app`; with `guide`, they link to it."""
    router = APIRouter(default_response_class=HTMLResponse)
    frame = Template((FOLDER / "pages" / "frame.html").read_text(encoding="utf-8"))
    for page in PAGES:
        router.add_api_route(
            page.path, _Shown(page, render(frame, page, guide=guide)), include_in_schema=False, name=page.name
        )
    app.include_router(router)
    app.mount("/dashboard/static/swagger-ui", CheckedFiles(directory=SWAGGER_UI))
    app.mount("/dashboard/static", CheckedFiles(directory=FOLDER / "static"))


def render(frame: Template, page: Page, *, guide: bool) -> str:
    def link(one: Page) -> str:
        here = ' aria-current="page"' if one is page else ""
        return f'<a href="{one.path}"{here}>{escape(one.title)}</a>'

    return frame.substitute(
        name=page.name,
        title=escape(page.title),
        links="\n".join(link(one) for one in PAGES if one.section),
        others="\n".join(
            [*(link(one) for one in PAGES if not one.section), *(['<a href="/guide">Guide</a>'] if guide else [])]
        ),
        main=(FOLDER / "pages" / f"{page.name}.html").read_text(encoding="utf-8"),
        version=headmap.__version__,
    )


class _Shown:
    """A route that answers with one page."""

    def __init__(self, page: Page, html: str) -> None:
        self._html, self._headers = html, _HEADERS | {"Content-Security-Policy": page.policy}

    async def __call__(self) -> HTMLResponse:
        return HTMLResponse(self._html, headers=self._headers)
