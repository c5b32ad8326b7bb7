"""pydantic-ai's agents: text, output of a type, tools; over /v1/chat/completions and over /v1/responses."""

from __future__ import annotations

import asyncio
import base64
from typing import Literal

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, BinaryContent, NativeOutput, UsageLimitExceeded, UsageLimits
from pydantic_ai.models import Model
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider


class Reading(BaseModel):
    """What was read on a page."""

    key: Literal["BXP"]
    legible: bool


@pytest.fixture(params=[OpenAIChatModel, OpenAIResponsesModel])
def served(request: pytest.FixtureRequest, url: str, key: str, model: str) -> Model:
    return request.param(model, provider=OpenAIProvider(base_url=f"{url}/v1", api_key=key))


@pytest.fixture
def prompt(picture: str, question: str) -> list[str | BinaryContent]:
    data = base64.b64decode(picture.partition(",")[2])
    return [BinaryContent(data, media_type="image/png"), question]


def test_a_question_is_answered(served: Model, prompt: list[str | BinaryContent], answer: str) -> None:
    assert Agent(served).run_sync(prompt).output == answer


def test_a_stream_says_the_same(served: Model, prompt: list[str | BinaryContent], answer: str) -> None:
    async def ask() -> str:
        async with Agent(served).run_stream(prompt) as result:
            return await result.get_output()

    assert asyncio.run(ask()) == answer


def test_instructions_go_along(served: Model, prompt: list[str | BinaryContent]) -> None:
    agent = Agent(served, instructions="Be brief.", system_prompt="You read pages.")
    assert isinstance(agent.run_sync(prompt, model_settings={"max_tokens": 16}).output, str)


def test_output_of_a_type(served: Model, prompt: list[str | BinaryContent]) -> None:
    assert Agent(served, output_type=Reading).run_sync(prompt).output.key == "BXP"
    assert Agent(served, output_type=NativeOutput(Reading)).run_sync(prompt).output.key == "BXP"


def test_a_tool_beside_an_output_type(served: Model, prompt: list[str | BinaryContent]) -> None:
    """A call is required, and which one is the model's choice: the output, or the tool as often as it likes."""
    agent = Agent(served, output_type=Reading)
    asked: list[str] = []

    @agent.tool_plain
    def look(place: Literal["top", "bottom"]) -> str:
        """Look at a place of the page."""
        asked.append(place)
        return "seen"

    try:
        assert agent.run_sync(prompt, usage_limits=UsageLimits(request_limit=3)).output.key == "BXP"
    except UsageLimitExceeded:
        assert len(asked) == 3


def test_a_tool_that_may_be_called(served: Model, prompt: list[str | BinaryContent]) -> None:
    """`auto`: a model that knows no tools answers as text."""
    agent = Agent(served)

    @agent.tool_plain
    def look(place: Literal["top", "bottom"]) -> str:
        """Look at a place of the page."""
        return place

    assert isinstance(agent.run_sync(prompt, model_settings={"max_tokens": 16}).output, str)
