"""Which of a request's pictures is wrong is told by its number, whatever is wrong with it and however it came."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from headmap.families.base import PreparedPrompt
from tests.services.inference.conftest import base64_of, png
from tests.services.inference.fakes import FakeModels

GOOD, WIDE, BROKEN = base64_of(png()), base64_of(png(402, 2)), base64_of(png()[:48])


@pytest.fixture
def picky(models: FakeModels, client: TestClient, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    """A server whose model takes no wide picture, as processors that cut pictures into patches."""
    (maker,) = models.prompts.values()
    prepare = maker.prepare

    def picky_prepare(messages: Sequence[dict[str, Any]], images: Sequence[Image.Image], *more: Any) -> PreparedPrompt:
        if any(image.width > 200 * image.height for image in images) or not messages[-1]["content"][-1].get("text"):
            raise ValueError("absolute aspect ratio must be smaller than 200, got 200.0")
        return prepare(messages, images, *more)

    monkeypatch.setattr(maker, "prepare", picky_prepare)
    return client


def of_chat(client: TestClient, *pictures: str) -> tuple[int, str, str]:
    parts = [{"type": "image_url", "image_url": {"url": one}} for one in pictures]
    turns = [{"role": "user", "content": [part, {"type": "text", "text": "What?"}]} for part in parts]
    answer = client.post("/v1/chat/completions", json={"messages": turns})
    error = answer.json().get("error", {})
    return answer.status_code, error.get("param"), error.get("message")


def of_generate(client: TestClient, inputs: str, *images: str) -> tuple[int, str, str]:
    answer = client.post("/generate", json={"inputs": inputs, "images": images})
    problem = answer.json()
    return answer.status_code, problem.get("param"), problem.get("detail")


WRONG = [(BROKEN, "the picture is broken"), ("a$", "not base64"), ("http://a.test/b.png", "image URLs are off here")]
UNFIT = (WIDE, "the model cannot take this picture (absolute aspect ratio")


@pytest.mark.parametrize(("picture", "why"), [*WRONG, UNFIT])
def test_a_wrong_picture_is_told_by_its_number(picky: TestClient, picture: str, why: str) -> None:
    field = "messages.2.content.0.image_url.url"
    status, param, detail = of_chat(picky, GOOD, GOOD, picture)
    assert (status, param) == (400, field)
    assert detail.startswith(f"picture 3 ({field}): {why}")

    status, param, detail = of_generate(picky, "What?", GOOD, picture, GOOD)
    assert (status, param) == (422, "images.1")
    assert detail.startswith(f"images.1: {why}")

    status, param, detail = of_generate(picky, f"![]({GOOD}) ![]({picture}) What?", GOOD)
    assert (status, param) == (422, "inputs")
    assert detail.startswith(f"picture 3 (inputs): {why}")


def test_a_conversation_that_cannot_be_made_is_no_pictures_fault(picky: TestClient) -> None:
    turns = [
        {
            "role": "user",
            "content": [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": GOOD}}],
        }
    ]
    error = picky.post("/v1/chat/completions", json={"messages": turns}).json()["error"]
    assert (error["param"], error["message"][:38]) == ("messages", "messages: the prompt cannot be made (a")


def test_good_pictures_are_answered(picky: TestClient) -> None:
    assert of_chat(picky, GOOD, GOOD)[0] == 200
    assert of_generate(picky, f"![]({GOOD}) What?", GOOD)[0] == 200
