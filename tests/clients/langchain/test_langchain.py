"""LangChain's chat model for servers that speak OpenAI's protocol."""

from __future__ import annotations

import asyncio

import pytest
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI


@pytest.fixture
def chat(url: str, key: str, model: str) -> ChatOpenAI:
    return ChatOpenAI(model=model, base_url=f"{url}/v1", api_key=key, max_tokens=16, temperature=0, max_retries=0)


@pytest.fixture
def message(picture: str, question: str) -> HumanMessage:
    # The bundled model was trained on the picture first and reads wrongly the other way round
    parts = [{"type": "image_url", "image_url": {"url": picture}}, {"type": "text", "text": question}]
    return HumanMessage(content=parts)


def test_a_question_is_answered(chat: ChatOpenAI, message: HumanMessage, answer: str) -> None:
    found = chat.invoke([message])
    assert found.content == answer
    assert found.usage_metadata["output_tokens"] > 0


def test_a_stream_says_the_same(chat: ChatOpenAI, message: HumanMessage, answer: str) -> None:
    assert "".join(chunk.content for chunk in chat.stream([message])) == answer


def test_a_batch_and_async(chat: ChatOpenAI, message: HumanMessage, answer: str) -> None:
    assert [one.content for one in chat.batch([[message]] * 4)] == [answer] * 4
    assert asyncio.run(chat.ainvoke([message])).content == answer


def test_kv_goes_along(url: str, key: str, model: str, message: HumanMessage) -> None:
    body = {"kv": {"method": "snapkv", "ratio": 0.5}}
    chat = ChatOpenAI(model=model, base_url=f"{url}/v1", api_key=key, max_tokens=4, max_retries=0, extra_body=body)
    assert isinstance(chat.invoke([message]).content, str)
