"""Questions to /generate, and reading what it streams."""

from __future__ import annotations

import json
from typing import Any

from fastapi.testclient import TestClient

QUESTION = "What is it?"


def ask(client: TestClient, picture: str, **parameters: Any) -> Any:
    return client.post("/generate", json={"inputs": QUESTION, "images": [picture], "parameters": parameters})


def events_of(text: str) -> list[tuple[str | None, dict[str, Any]]]:
    found = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.strip().split("\n") if line and not line.startswith(":"))
        if "data" in lines:
            found.append((lines.get("event"), json.loads(lines["data"])))
    return found
