"""The documentation at /guide/: the site that `make site` builds."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import RedirectResponse
from starlette.responses import Response
from starlette.types import Scope

from services.dashboard.static_files import CheckedFiles

_INLINE = re.compile(r"<script>(.*?)</script>", re.DOTALL)


def mount_guide(app: FastAPI, folder: Path) -> None:
    """Show the site in `folder` to everybody; its pages hold nothing of this deployment."""

    @app.get("/guide", include_in_schema=False)
    async def begin() -> RedirectResponse:
        return RedirectResponse("/guide/index.html")

    app.mount("/guide", _Guide(folder))


class _Guide(CheckedFiles):
    """Files of the site. Scripts inside of its pages run because the policy names their hashes, and no others do."""

    def __init__(self, folder: Path) -> None:
        super().__init__(directory=folder)
        pages = [page.read_text(encoding="utf-8") for page in folder.rglob("*.html")]
        scripts = {script for page in pages for script in _INLINE.findall(page)}
        hashes = sorted(f"'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'" for script in scripts)
        self._policy = (
            f"default-src 'none'; script-src 'self' {' '.join(hashes)}; style-src 'self' 'unsafe-inline'; "
            "img-src 'self' data:; connect-src 'self'; worker-src 'self'; form-action 'none'; frame-ancestors 'none'; "
            "base-uri 'none'"
        )

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers["Content-Security-Policy"] = self._policy
        return response
