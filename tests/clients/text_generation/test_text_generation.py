"""text-generation-inference's own client: it sends every parameter, null where it is not set, and reads a list at /."""

from __future__ import annotations

import asyncio

import pytest
from text_generation import AsyncClient, Client
from text_generation.errors import ValidationError


@pytest.fixture
def headers(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def client(url: str, headers: dict[str, str]) -> Client:
    return Client(url, headers=headers, timeout=120)


@pytest.fixture
def prompt(picture: str, question: str) -> str:
    return f"![]({picture}){question}"


def test_a_question_is_answered(client: Client, prompt: str, answer: str) -> None:
    found = client.generate(prompt)
    assert found.generated_text == answer
    assert found.details.finish_reason == "eos_token"
    assert len(found.details.tokens) == found.details.generated_tokens


def test_a_stream_says_the_same(client: Client, prompt: str, answer: str) -> None:
    events = list(client.generate_stream(prompt))
    assert "".join(event.token.text for event in events if not event.token.special) == answer
    assert events[-1].generated_text == answer


def test_text_without_a_picture(client: Client) -> None:
    assert client.generate("BXP:", max_new_tokens=4).details.generated_tokens <= 4


def test_prompt_and_top_tokens_are_told(client: Client) -> None:
    found = client.generate("BXP:", max_new_tokens=4, decoder_input_details=True, top_n_tokens=2, stop_sequences=["\n"])
    assert len(found.details.prefill) > 1
    assert [len(tokens) for tokens in found.details.top_tokens] == [2] * found.details.generated_tokens


def test_async(url: str, headers: dict[str, str], prompt: str, answer: str) -> None:
    client = AsyncClient(url, headers=headers, timeout=120)
    assert asyncio.run(client.generate(prompt)).generated_text == answer


def test_chat(client: Client) -> None:
    """It names the model `tgi`, whichever is served."""
    found = client.chat(messages=[{"role": "user", "content": "What is there?"}], max_tokens=4)
    assert found.choices[0].message.role == "assistant"


def test_what_is_wrong_is_an_error_of_its_own(client: Client) -> None:
    with pytest.raises(ValidationError):
        client.generate("![](data:image/png;base64,AAAA)What?")
