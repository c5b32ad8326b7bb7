"""Bodies of /tokenize and /detokenize: vLLM's, or text-generation-inference's if the body has `inputs`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field

from headmap.json_numbers import Integer
from services.inference.http.schemas.fields import MAX_TOKENS, Body, Items, Nothing, NotServed, Only
from services.inference.http.schemas.openai_chat import Messages


class TokenizeRequest(Body):
    """Exactly one of `prompt`, `messages` and `inputs`."""

    model: str | None = Field(None, min_length=1, max_length=512)
    prompt: str | None = Field(None, description="text for /v1/completions")
    messages: Messages | None = Field(None, description="conversation for /v1/chat/completions")
    inputs: str | None = Field(
        None, description="text for text-generation-inference; the answer has that server's form"
    )
    return_token_strs: bool = False
    tools: Items[dict[str, Any]] | None = Field(None, max_length=128)
    chat_template_kwargs: dict[str, Any] | None = None

    parameters: Nothing = None
    add_special_tokens: Nothing = Field(
        None, description="ignored: a text gets the model's special tokens, a conversation its template's"
    )
    add_generation_prompt: Annotated[Any, Only(True)] = None
    continue_final_message: Annotated[Any, Only(False)] = None
    mm_processor_kwargs: Annotated[Any, Only({})] = None
    chat_template: NotServed = None


class TokenizeResponse(BaseModel):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class PlacedToken(BaseModel):
    """A token in text-generation-inference's form: characters `start` to `stop` of the text."""

    id: int
    text: str
    start: int
    stop: int


class DetokenizeRequest(Body):
    model: str | None = Field(None, min_length=1, max_length=512)
    tokens: Items[Integer] = Field(max_length=MAX_TOKENS)


class DetokenizeResponse(BaseModel):
    prompt: str
