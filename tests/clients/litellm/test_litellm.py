"""LiteLLM, which turns every provider into one call."""

from __future__ import annotations

from typing import Any

import litellm
import pytest


@pytest.fixture
def ask(url: str, key: str, model: str, picture: str, question: str) -> dict[str, Any]:
    # The bundled model was trained on the picture first and reads wrongly the other way round
    parts = [{"type": "image_url", "image_url": {"url": picture}}, {"type": "text", "text": question}]
    return {
        "model": f"openai/{model}",
        "api_base": f"{url}/v1",
        "api_key": key,
        "max_tokens": 16,
        "num_retries": 0,
        "messages": [{"role": "user", "content": parts}],
    }


def test_a_question_is_answered(ask: dict[str, Any], answer: str) -> None:
    found = litellm.completion(**ask)
    assert found.choices[0].message.content == answer
    assert found.usage.completion_tokens > 0


def test_a_stream_says_the_same(ask: dict[str, Any], answer: str) -> None:
    text = "".join(chunk.choices[0].delta.content or "" for chunk in litellm.completion(**ask, stream=True))
    assert text == answer


def test_a_wrong_key_is_an_authentication_error(ask: dict[str, Any]) -> None:
    with pytest.raises(litellm.AuthenticationError):
        litellm.completion(**{**ask, "api_key": "wrong"})
