"""huggingface_hub's InferenceClient, which speaks text-generation-inference's protocol at a server's own URL."""

from __future__ import annotations

import pytest
from huggingface_hub import InferenceClient


@pytest.fixture
def client(url: str, key: str) -> InferenceClient:
    return InferenceClient(base_url=f"{url}/generate", api_key=key, timeout=120)


@pytest.fixture
def prompt(picture: str, question: str) -> str:
    return f"![]({picture}){question}"


def test_a_question_is_answered(client: InferenceClient, prompt: str, answer: str) -> None:
    assert client.text_generation(prompt, max_new_tokens=16) == answer


def test_details_come_along(client: InferenceClient, prompt: str, answer: str) -> None:
    found = client.text_generation(prompt, max_new_tokens=16, details=True)
    assert found.generated_text == answer
    assert found.details.finish_reason == "eos_token"
    assert found.details.generated_tokens > 0


def test_a_stream_says_the_same(client: InferenceClient, prompt: str, answer: str) -> None:
    assert "".join(client.text_generation(prompt, max_new_tokens=16, stream=True)) == answer
    events = list(client.text_generation(prompt, max_new_tokens=16, stream=True, details=True))
    assert events[-1].generated_text == answer
    assert events[-1].details.finish_reason == "eos_token"


def test_chat_works_too(url: str, key: str, model: str, picture: str, question: str, answer: str) -> None:
    parts = [{"type": "image_url", "image_url": {"url": picture}}, {"type": "text", "text": question}]
    client = InferenceClient(base_url=url, api_key=key)
    found = client.chat_completion([{"role": "user", "content": parts}], model=model, max_tokens=16)
    assert found.choices[0].message.content == answer
