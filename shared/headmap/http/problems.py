"""Errors as documents: RFC 9457 problems, and OpenAI's form under /v1, which answers bad input with 400.

No other module sets an error status.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match

from headmap.errors import HeadmapError, PayloadTooLarge, RequestTimeout, TooManyRequests, Unauthorized, Unavailable
from headmap.http.costs import MAX_DETAIL
from headmap.http.invalid import invalid_parameter

logger = logging.getLogger(__name__)

PROBLEM_SCHEMA: dict[str, Any] = {
    "title": "Problem",
    "type": "object",
    "description": "An error as RFC 9457 has it; `code` is stable, `detail` names the field and the value at fault.",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string"},
        "param": {"type": "string"},
    },
    "required": ["type", "title", "status", "detail", "code"],
}
OPENAI_ERROR_SCHEMA: dict[str, Any] = {
    "title": "OpenAIError",
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
            "required": ["message", "type", "param", "code"],
        }
    },
    "required": ["error"],
}

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

_HTTP_CODES = {
    400: "invalid_request",
    404: "not_found",
    405: "method_not_allowed",
}
_OPENAI_CODES = {"prompt_too_long": "context_length_exceeded"}
"""Codes by which OpenAI's clients know what to do."""

_OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


GENERATE_PATHS = ("/", "/generate", "/generate_stream")
"""Where clients of text-generation-inference read errors."""


class ProblemResponse(JSONResponse):
    media_type = "application/problem+json"


def error_response(error: HeadmapError, path: str) -> JSONResponse:
    """Return the document of an error: OpenAI's form if `path` is under /v1, else a problem document."""
    headers: dict[str, str] = {}
    if isinstance(error, TooManyRequests):
        headers["Retry-After"] = str(error.retry_after)
    elif isinstance(error, Unavailable):
        headers["Retry-After"] = "1"
    elif isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    elif isinstance(error, RequestTimeout):
        headers["Connection"] = "close"  # RFC 9110, 15.5.9
    return _respond(error.problem(), error.status, path, headers)


def install_handlers(app: FastAPI) -> None:
    """Answer every error of `app` with a document."""

    @app.exception_handler(HeadmapError)
    async def headmap_error(request: Request, error: HeadmapError) -> JSONResponse:
        if error.status >= 500:
            logger.warning("%s: %s", error.code, error.detail)
        return error_response(error, request.url.path)

    @app.exception_handler(RequestValidationError)
    async def validation_error(request: Request, error: RequestValidationError) -> JSONResponse:
        return error_response(invalid_parameter(error.errors(), error.body), request.url.path)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        if isinstance(error.__cause__, HeadmapError):  # FastAPI passes on only an HTTPException while it reads a body
            return error_response(error.__cause__, request.url.path)
        document = {
            "type": "about:blank",
            "title": _title(error.status_code),
            "status": error.status_code,
            "detail": _http_detail(request, error),
            "code": _HTTP_CODES.get(error.status_code, "http_error"),
        }
        headers = dict(error.headers or {})
        if error.status_code == 405:
            headers["Allow"] = ", ".join(_allowed(request))
        return _respond(document, error.status_code, request.url.path, headers)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        # Starlette raises it again after this answer, so the server logs the trace.
        response = error_response(
            HeadmapError(f"internal error; request {request.scope.get('headmap_request_id')}"), request.url.path
        )
        response.headers.update(SECURITY_HEADERS)  # this answer bypasses our middleware
        return response


def _allowed(request: Request) -> list[str]:
    """Every method that this path takes. Starlette names only the first route's methods."""
    methods: set[str] = set()
    for route in request.app.routes:
        for method in ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT"):
            match, _ = route.matches({**request.scope, "method": method})
            if match is Match.FULL:
                methods.add(method)
    if "GET" in methods:
        methods.add("HEAD")
    return sorted(methods)


def generation_problem(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a problem document with the two extra members that text-generation-inference's clients read."""
    kinds = {413: "validation", 422: "validation", 429: "overloaded"}
    return {**document, "error": document["detail"], "error_type": kinds.get(document["status"], "generation")}


def too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"body: more than {limit} bytes", param="body")


def _respond(document: Mapping[str, Any], status: int, path: str, headers: Mapping[str, str]) -> JSONResponse:
    if path == "/v1" or path.startswith("/v1/"):
        status = 400 if status == 422 else status  # OpenAI's status for bad input; its clients do not know 422
        fallback = "server_error" if status >= 500 else "invalid_request_error"
        error = {
            "message": _printable(document["detail"]),
            "type": _OPENAI_TYPES.get(status, fallback),
            "param": document.get("param"),
            "code": _OPENAI_CODES.get(str(document["code"]), document["code"]),
        }
        return JSONResponse({"error": error}, status, headers=dict(headers))
    if path in GENERATE_PATHS:
        document = generation_problem(document)
    clean = {key: _printable(value) if isinstance(value, str) else value for key, value in document.items()}
    return ProblemResponse(clean, status, headers=dict(headers))


def _printable(text: str) -> str:
    """Return the start of `text` without lone surrogates: JSON accepts them, but UTF-8 cannot encode them."""
    start = text if len(text) <= MAX_DETAIL else f"{text[: MAX_DETAIL - 3]}..."
    return start.encode("utf-8", "replace").decode("utf-8")


def _title(status: int) -> str:
    return {400: "Bad request", 404: "Not found", 405: "Method not allowed"}.get(status, "HTTP error")


def _http_detail(request: Request, error: HTTPException) -> str:
    if error.status_code == 404:
        return f"there is no {request.url.path}"
    if error.status_code == 405:
        return f"{request.url.path} takes no {request.method}"
    return str(error.detail)
