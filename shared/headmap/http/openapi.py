"""The OpenAPI document of an application: FastAPI's own, with our errors, keys and scopes."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from headmap.http.auth import OPEN_PATHS, needed_scope
from headmap.http.problems import OPENAI_ERROR_SCHEMA, PROBLEM_SCHEMA
from headmap.keys import Scope

METHODS = ("get", "post", "put", "delete", "patch")


def describe(app: FastAPI, keys: bool, documents: dict[bool, dict[str, Any]]) -> dict[str, Any]:
    """Return FastAPI's document with our errors, and with the key if one is needed. Each form is made once."""
    if keys in documents:
        return documents[keys]
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas |= {"Problem": PROBLEM_SCHEMA, "OpenAIError": OPENAI_ERROR_SCHEMA}
    for path, item in document["paths"].items():
        if path in OPEN_PATHS:
            continue
        for method in set(item) & set(METHODS):
            _describe_errors(path, item[method])
            if keys:
                _describe_key(item[method], needed_scope(method.upper(), path))
            _say_as_documents(path, item[method]["responses"])
    if keys:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    documents[keys] = document
    return document


def _describe_errors(path: str, operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    responses.setdefault("503", {"description": "Registry or service unavailable"})
    if "requestBody" in operation:
        responses.setdefault("400", {"description": "The body cannot be read"})
        responses.setdefault("408", {"description": "The body arrives too slowly"})
        responses.setdefault("413", {"description": "The body is too large"})
        responses.setdefault("429", {"description": "Too many requests; Retry-After says when to come back"})
        responses.setdefault("422", {"description": "Invalid request"})
        responses.setdefault("403", {"description": "A form or plain text from another site's page"})
    if path.startswith("/v1/") and (invalid := responses.pop("422", None)) is not None:
        responses["400"] = invalid


def _describe_key(operation: dict[str, Any], needed: Scope | None) -> None:
    """The scope stands beside the key, as OpenAPI 3.1 has the roles of schemes that are no OAuth."""
    operation["security"] = [{"key": [] if needed is None else [needed.value]}]
    responses = operation["responses"]
    responses["401"] = {"description": "No valid key"}
    responses.setdefault("429", {"description": "The key is used more than it may; Retry-After says when to return"})
    if needed is not None:
        also = responses.get("403", {}).get("description")
        lacks = f"The key lacks the scope {needed.value}"
        responses["403"] = {"description": f"{lacks}. {also}" if also else lacks}


def _say_as_documents(path: str, responses: dict[str, Any]) -> None:
    openai = path.startswith("/v1/")
    name, media = ("OpenAIError", "application/json") if openai else ("Problem", "application/problem+json")
    for status, response in responses.items():
        if status.startswith(("4", "5")):
            response["description"] = response.get("description", "").replace("Validation Error", "Invalid request")
            response["content"] = {media: {"schema": {"$ref": f"#/components/schemas/{name}"}}}
