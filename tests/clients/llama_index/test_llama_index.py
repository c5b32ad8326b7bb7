"""LlamaIndex's model for servers that speak OpenAI's protocol."""

from __future__ import annotations

import base64
from typing import Literal

import pytest
from llama_index.core.llms import ChatMessage, ImageBlock, TextBlock
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel


class Reading(BaseModel):
    """What was read on a page."""

    key: Literal["BXP"]
    legible: bool


@pytest.fixture
def llm(url: str, key: str, model: str) -> OpenAILike:
    known = {"is_chat_model": True, "is_function_calling_model": True}
    return OpenAILike(model=model, api_base=f"{url}/v1", api_key=key, max_retries=0, temperature=0, **known)


@pytest.fixture
def message(picture: str, question: str) -> ChatMessage:
    data = base64.b64decode(picture.partition(",")[2])
    return ChatMessage(
        role="user", blocks=[ImageBlock(image=data, image_mimetype="image/png"), TextBlock(text=question)]
    )


def test_a_question_is_answered(llm: OpenAILike, message: ChatMessage, answer: str) -> None:
    assert llm.chat([message]).message.content == answer
    assert "".join(part.delta or "" for part in llm.stream_chat([message])) == answer


def test_text_goes_on(url: str, key: str, model: str) -> None:
    """By default it takes a model for one that completes text."""
    llm = OpenAILike(model=model, api_base=f"{url}/v1", api_key=key, max_retries=0)
    assert isinstance(llm.complete("BXP:").text, str)


def test_an_answer_of_a_type(llm: OpenAILike, message: ChatMessage) -> None:
    assert llm.as_structured_llm(Reading).chat([message]).raw.key == "BXP"
