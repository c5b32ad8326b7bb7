"""openai, sync and async, unmodified."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def messages(picture: str, question: str) -> list[Any]:
    parts = [{"type": "image_url", "image_url": {"url": picture}}, {"type": "text", "text": question}]
    return [{"role": "user", "content": parts}]


@pytest.fixture
def client(url: str, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)


def test_models_are_listed(client: openai.OpenAI, model: str) -> None:
    assert [one.id for one in client.models.list()] == [model, f"{model}@documents"]
    assert client.models.retrieve(model).id == model


def test_a_question_is_answered(client: openai.OpenAI, model: str, messages: list[Any], answer: str) -> None:
    found = client.chat.completions.create(model=model, messages=messages, max_completion_tokens=16)
    assert found.choices[0].message.content == answer
    assert found.choices[0].finish_reason == "stop"
    assert found.usage is not None
    assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens


def test_a_policy_is_a_model_by_name(client: openai.OpenAI, model: str, messages: list[Any], answer: str) -> None:
    ask = client.chat.completions.with_raw_response.create
    told = ask(model=f"{model}@documents", messages=messages, max_completion_tokens=16, temperature=0)
    completion = told.parse()
    assert (completion.model, completion.choices[0].message.content) == (f"{model}@documents", answer)
    assert told.headers["x-headmap-kv"].startswith("policy=documents; policy_version=1; method=snapkv; ratio=0.9")


def test_kv_goes_along_and_comes_back(client: openai.OpenAI, model: str, messages: list[Any]) -> None:
    kv = {"method": "snapkv", "ratio": 0.4}
    found = client.chat.completions.create(model=model, messages=messages, max_tokens=8, extra_body={"kv": kv})
    assert found.model_extra is not None
    assert found.model_extra["kv"]["bytes"] < found.model_extra["kv"]["full_bytes"]


def test_a_stream_says_the_same(client: openai.OpenAI, model: str, messages: list[Any], answer: str) -> None:
    stream = client.chat.completions.create(
        model=model, messages=messages, max_tokens=16, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == answer
    assert chunks[-1].usage is not None


def test_many_at_a_time(url: str, key: str, model: str, messages: list[Any], answer: str) -> None:
    async def ask() -> list[str | None]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
            calls = (client.chat.completions.create(model=model, messages=messages, max_tokens=16) for _ in range(8))
            return [one.choices[0].message.content for one in await asyncio.gather(*calls)]

    assert asyncio.run(ask()) == [answer] * 8


def test_errors_have_their_own_classes(client: openai.OpenAI, url: str, model: str, messages: list[Any]) -> None:
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{url}/v1", api_key="wrong", max_retries=0).models.list()
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="nobody/nothing", messages=messages)
    broken = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}]
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model=model, messages=[*messages, *broken])  # type: ignore[list-item]
    assert "messages.1" in refused.value.message
