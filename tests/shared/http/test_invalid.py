"""Errors of pydantic in the API's words, through a route: what a client is told of its body."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import BaseModel, ConfigDict, Field

from headmap.http.problems import install_handlers


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    name: str


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")

    pages: Annotated[int, Field(ge=1, le=9)] | Literal["auto"] = 1
    pets: list[Annotated[Cat | Dog, Field(discriminator="kind")]] = []
    text: str | list[str] = ""


@pytest.fixture(scope="module")
def client() -> TestClient:
    app = FastAPI()
    install_handlers(app)

    @app.post("/things")
    def things(body: Body, limit: int = 1) -> None:
        return None

    return TestClient(app)


@pytest.mark.parametrize(
    ("sent", "param", "detail"),
    [
        ({"pages": 0}, "pages", "pages: input should be greater than or equal to 1 or input should be 'auto', got 0"),
        ({"pets": [{"kind": "cat"}]}, "pets.0.lives", "pets.0.lives: missing"),
        (
            {"pets": [{"kind": "dog", "name": 5}]},
            "pets.0.name",
            "pets.0.name: input should be a valid string, got 5",
        ),
        (
            {"text": [3]},
            "text",
            "text: input should be a valid string, got [3]; text.0: input should be a valid string, got 3",
        ),
        ({"other": 1}, "other", "other: unknown field"),
        ({"other": 1, "pages": 10}, "pages", None),
        ([], "body", "body: must be a JSON object, sent as application/json"),
    ],
)
def test_fields_are_named_as_they_were_sent(client: TestClient, sent: object, param: str, detail: str | None) -> None:
    answer = client.post("/things", json=sent).json()

    assert answer["param"] == param
    assert "[" not in answer["detail"].replace("[3]", "")
    if detail is not None:
        assert answer["detail"] == detail


def test_a_query_names_its_parameter(client: TestClient) -> None:
    answer = client.post("/things?limit=x", json={}).json()

    assert (answer["param"], answer["detail"][:6]) == ("limit", "limit:")


def test_a_body_that_is_no_json_says_so(client: TestClient) -> None:
    sent = client.post("/things", content=b"{", headers={"Content-Type": "application/json"})

    assert sent.json()["detail"] == "body: not valid JSON"


def test_a_body_wrong_everywhere_is_told_in_part(client: TestClient) -> None:
    answer = client.post("/things", json={f"f{number}": 1 for number in range(100)}).json()

    assert answer["detail"].count("unknown field") == 8
