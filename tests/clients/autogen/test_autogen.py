"""AutoGen's client and its agents, which name the speaker of every turn."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import pytest
from autogen_agentchat.agents import AssistantAgent
from autogen_core import Image
from autogen_core.models import ModelInfo, SystemMessage, UserMessage
from autogen_ext.models.openai import OpenAIChatCompletionClient
from pydantic import BaseModel

INFO = ModelInfo(vision=True, function_calling=True, json_output=True, family="unknown", structured_output=True)


class Reading(BaseModel):
    """What was read on a page."""

    key: Literal["BXP"]
    legible: bool


@pytest.fixture
def ask(url: str, key: str, model: str) -> Callable[[Callable[[OpenAIChatCompletionClient], Awaitable[Any]]], Any]:
    """Runs something with a client of its own, for a client is bound to one event loop."""

    async def run(what: Callable[[OpenAIChatCompletionClient], Awaitable[Any]]) -> Any:
        client = OpenAIChatCompletionClient(
            model=model, base_url=f"{url}/v1", api_key=key, model_info=INFO, max_retries=0
        )
        try:
            return await what(client)
        finally:
            await client.close()

    return lambda what: asyncio.run(run(what))


@pytest.fixture
def message(picture: str, question: str) -> UserMessage:
    return UserMessage(content=[Image.from_base64(picture.partition(",")[2]), question], source="user")


def test_a_question_is_answered(ask: Any, message: UserMessage, answer: str) -> None:
    assert ask(lambda client: client.create([message])).content == answer
    system = SystemMessage(content="You read pages.")
    assert isinstance(ask(lambda client: client.create([system, message])).content, str)


def test_a_stream_says_the_same(ask: Any, message: UserMessage, answer: str) -> None:
    async def last(client: OpenAIChatCompletionClient) -> Any:
        return [one async for one in client.create_stream([message])][-1]

    assert ask(last).content == answer


def test_an_answer_of_a_type(ask: Any, message: UserMessage) -> None:
    found = ask(lambda client: client.create([message], json_output=Reading)).content
    assert Reading.model_validate_json(found)


def test_an_agent_with_a_tool(ask: Any) -> None:
    """`auto`: a model that knows no tools answers as text."""

    async def look(place: Literal["top", "bottom"]) -> str:
        """Look at a place of the page."""
        return place

    result = ask(lambda client: AssistantAgent("reader", client, tools=[look]).run(task="What is at the top?"))
    assert isinstance(result.messages[-1].to_text(), str)


def test_an_agent_with_an_output_type(ask: Any) -> None:
    result = ask(
        lambda client: AssistantAgent("reader", client, output_content_type=Reading).run(task="What is there?")
    )
    assert result.messages[-1].content.key == "BXP"
