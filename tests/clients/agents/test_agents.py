"""OpenAI's agents, over /v1/responses (their default) and over /v1/chat/completions."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import pytest
from agents import Agent, OpenAIChatCompletionsModel, OpenAIResponsesModel, Runner, function_tool, set_tracing_disabled
from openai import AsyncOpenAI
from pydantic import BaseModel

set_tracing_disabled(True)  # traces would go to OpenAI


class Reading(BaseModel):
    """What was read on a page."""

    key: Literal["BXP"]
    legible: bool


@function_tool
def look(place: Literal["top", "bottom"]) -> str:
    """Look at a place of the page."""
    return place


@pytest.fixture(params=[OpenAIResponsesModel, OpenAIChatCompletionsModel])
def run(request: pytest.FixtureRequest, url: str, key: str, model: str) -> Any:
    """Runs an agent of these settings on a prompt."""

    async def ask(prompt: Any, **settings: Any) -> Any:
        async with AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
            served = request.param(model=model, openai_client=client)
            return await Runner.run(Agent("reader", model=served, **settings), prompt)

    return lambda prompt, **settings: asyncio.run(ask(prompt, **settings)).final_output


def test_a_question_is_answered(run: Any, picture: str, question: str, answer: str) -> None:
    parts = [{"type": "input_image", "image_url": picture, "detail": "auto"}, {"type": "input_text", "text": question}]
    assert run([{"role": "user", "content": parts}]) == answer


def test_output_of_a_type(run: Any) -> None:
    assert run("What is there?", instructions="You read pages.", output_type=Reading).key == "BXP"


def test_a_tool_that_may_be_called(run: Any) -> None:
    """`auto`: a model that knows no tools answers as text."""
    assert isinstance(run("What is at the top?", tools=[look]), str)
