"""/docs without a CDN: a page for Swagger UI. The package fastapi-offline contains its files."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

SWAGGER_UI = Path(str(files("fastapi_offline"))) / "static"
"""Holds swagger-ui-bundle.js and swagger-ui.css."""

# Swagger UI draws icons from data: URLs and writes its own styles.
SWAGGER_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
)

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <title>{title}</title>
  <link rel="stylesheet" href="/docs/swagger-ui/swagger-ui.css">
</head>
<body>
  <div id="document"></div>
  <script src="/docs/swagger-ui/swagger-ui-bundle.js"></script>
  <script src="/docs/start.js"></script>
</body>
</html>
"""
_START = 'SwaggerUIBundle({ url: "/openapi.json", dom_id: "#document" });\n'


def mount_docs(app: FastAPI) -> None:
    """Put /docs on an application that was made with `docs_url=None`."""

    @app.get("/docs", include_in_schema=False)
    async def show() -> HTMLResponse:
        return HTMLResponse(_PAGE.format(title=app.title), headers={"Content-Security-Policy": SWAGGER_POLICY})

    @app.get("/docs/start.js", include_in_schema=False)
    async def start() -> Response:
        return Response(_START, media_type="text/javascript")

    app.mount("/docs/swagger-ui", StaticFiles(directory=SWAGGER_UI))
