"""instructor, which makes objects of answers: by tools (its default) and by schemas."""

from __future__ import annotations

from typing import Any, Literal

import instructor
import openai
import pytest
from pydantic import BaseModel


class Reading(BaseModel):
    """What was read on a page."""

    key: Literal["BXP"]
    legible: bool


@pytest.fixture
def client(url: str, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)


@pytest.fixture
def messages(picture: str, question: str) -> list[Any]:
    return [{"role": "user", "content": [instructor.Image.autodetect(picture), question]}]


def ask(client: instructor.Instructor, model: str, messages: list[Any]) -> Reading:
    return client.chat.completions.create(model=model, messages=messages, response_model=Reading, max_retries=0)


def test_by_default(client: openai.OpenAI, model: str, messages: list[Any]) -> None:
    assert ask(instructor.from_openai(client), model, messages).key == "BXP"


@pytest.mark.parametrize("mode", ["TOOLS", "JSON_SCHEMA"])
def test_in_each_mode(client: openai.OpenAI, model: str, messages: list[Any], mode: str) -> None:
    assert ask(instructor.from_openai(client, mode=instructor.Mode[mode]), model, messages).key == "BXP"


def test_in_the_mode_of_responses(client: openai.OpenAI, model: str) -> None:
    made = instructor.from_openai(client, mode=instructor.Mode.RESPONSES_TOOLS)
    assert ask(made, model, [{"role": "user", "content": "What is there?"}]).key == "BXP"


def test_from_a_providers_name(url: str, key: str, model: str, messages: list[Any]) -> None:
    client = instructor.from_provider(f"openai/{model}", base_url=f"{url}/v1", api_key=key)
    found = client.chat.completions.create(messages=messages, response_model=Reading, max_retries=0)
    assert found.key == "BXP"


def test_as_a_stream(client: openai.OpenAI, model: str, messages: list[Any]) -> None:
    made = instructor.from_openai(client)
    parts = list(made.chat.completions.create_partial(model=model, messages=messages, response_model=Reading))
    assert parts[-1].key == "BXP"
