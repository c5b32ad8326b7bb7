"""The service with the bundled model and the real engine, over real connections."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from headmap.head_scores import HeadScores
from headmap.models import find_model
from headmap.registry.maps import Provenance, add_map
from headmap.registry.session import Database
from headmap.scoring.pages import make_page
from headmap.settings import DEMO_MODEL, Settings
from services.inference.http.app import create_app
from tests.services.inference.conftest import live, wait_for
from tests.services.inference.http.test_clients_leave import send

KVS: list[dict[str, Any] | None] = [
    None,
    {"method": "sparsemm", "ratio": 0.4},
    {"method": "sparsemm", "budget": 40, "allocation": "paper", "window": 20},
    {"method": "snapkv", "ratio": 0.2},
    {"method": "pyramidkv", "ratio": 0.3},
    {"method": "adakv", "budget": 50},
    {"method": "random", "ratio": 0.5},
    {"method": "sparsemm", "ratio": 1},
]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, empty_registry: Path) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("service")
    shutil.copy(empty_registry, folder / "registry.sqlite3")
    settings = Settings(data_dir=folder)
    info = find_model(DEMO_MODEL, settings)
    database = Database(settings.sql_url)
    with database.write() as session:
        matrix = np.random.default_rng(0).random((info.num_layers, info.num_heads)) ** 8
        provenance = Provenance(model=DEMO_MODEL, revision=info.revision, architecture=None, dataset="test")
        add_map(session, provenance, HeadScores(matrix, info.num_kv_heads), promote=True, by=None)
    database.close()
    app: FastAPI = create_app(settings)
    with live(app) as url:
        yield url


def page(index: int) -> tuple[str, str]:
    """A made-up page as base64, and a question it answers."""
    made = make_page(5, index)
    file = BytesIO()
    made.image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii"), made.questions[0].question


def ask(url: str, number: int, kv: dict[str, Any] | None) -> dict[str, Any]:
    picture, question = page(number)
    parameters = {"max_new_tokens": 12, "seed": 1, "kv": kv}
    if number % 2:
        parameters |= {"temperature": 0.8}
    body = {"inputs": question, "images": [picture], "parameters": parameters}
    response = httpx.post(f"{url}/generate", json=body, timeout=60)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    del answer["details"]["timings"]
    return answer


def test_requests_answer_together_as_each_does_alone(url: str) -> None:
    alone = [ask(url, number, kv) for number, kv in enumerate(KVS)]
    with ThreadPoolExecutor(len(KVS)) as pool:
        together = list(pool.map(lambda item: ask(url, *item), enumerate(KVS)))
    assert together == alone


@pytest.mark.parametrize("text_first", [False, True])
@pytest.mark.parametrize("suffix", ["", "\nAnswer the question using a single word or phrase."])
def test_usual_clients_get_a_right_answer_first(url: str, text_first: bool, suffix: str) -> None:
    made = make_page(5, 3)
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{page(3)[0]}"}}
    parts = [{"type": "text", "text": made.questions[0].question + suffix}, picture]
    messages = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": parts if text_first else parts[::-1]},
    ]
    body = {"model": DEMO_MODEL, "messages": messages, "max_tokens": 16, "temperature": 0}
    response = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)
    assert response.json()["choices"][0]["message"]["content"] == made.questions[0].answer


def test_a_head_tells_what_it_keeps_of_each_picture(url: str) -> None:
    pictures = [page(number)[0] for number in range(2)]
    body = {"inputs": f"{page(0)[1]} ![](data:image/png;base64,{pictures[1]})", "images": pictures[:1]}
    asked = {"max_new_tokens": 2, "kv": {"method": "snapkv", "ratio": 0.25}}
    plain = httpx.post(f"{url}/generate", json={**body, "parameters": asked}, timeout=60).json()
    asked |= {"kept": {"layer": 4, "kv_head": 2}}
    told = httpx.post(f"{url}/generate", json={**body, "parameters": asked}, timeout=60).json()
    assert (plain["details"]["kept"], plain["generated_text"]) == (None, told["generated_text"])
    details = told["details"]
    kept = details["kept"]
    assert (kept["layer"], kept["kv_head"]) == (4, 2)
    assert len(kept["positions"]) == details["kv"]["budget"] == details["prompt_tokens"] // 4
    assert [len(kept["pictures"]), sum(one["tokens"] for one in kept["pictures"])] == [2, details["image_tokens"]]
    for number, one in enumerate(kept["pictures"]):  # this model's tokens lie row by row
        columns = len(one["x"]) - 1
        assert (one["x"][0], one["y"][0], (one["x"][-1], one["y"][-1])) == (0, 0, make_page(5, number).image.size)
        inside = [place - one["start"] for place in kept["positions"] if 0 <= place - one["start"] < one["tokens"]]
        drawn = [
            row * columns + column
            for row, cells in enumerate(one["cells"])
            for column in range(columns)
            if cells[column]
        ]
        assert (drawn, len(one["cells"]), one["kept_tokens"]) == (inside, len(one["y"]) - 1, len(inside))


def test_no_more_is_kept_than_was_asked(url: str) -> None:
    for number, kv in enumerate(KVS):
        told = ask(url, number, kv)["details"]["kv"]
        heads = told["full_tokens"] // ask(url, number, None)["details"]["prompt_tokens"]
        most = told["full_tokens"] * (1.0 if kv is None else kv.get("ratio", 1.0))
        assert told["kept_tokens"] <= (most if kv is None or "ratio" in kv else kv["budget"] * heads)
        token_bytes, page_tokens = 256, 16
        # Bytes count whole pages: the last page of each head may be partly empty, but holds one token at least.
        places, of_pages = divmod(told["bytes"] // token_bytes, page_tokens)
        assert of_pages == told["bytes"] % token_bytes == 0
        assert told["kept_tokens"] <= places * page_tokens < told["kept_tokens"] + heads * page_tokens


def test_bad_requests_do_not_disturb_others(url: str) -> None:
    wanted = ask(url, 2, None)
    picture, question = page(0)
    bad = [
        {"inputs": question, "images": ["aGVsbG8="]},
        {"inputs": question, "images": [picture], "parameters": {"kv": {"budget": 0}}},
        {"inputs": question, "images": [picture], "parameters": {"max_new_tokens": 1_000_000}},
        {"inputs": question * 500, "images": [picture]},
    ]
    with ThreadPoolExecutor(8) as pool:
        good = [pool.submit(ask, url, 2, None) for _ in range(3)]
        refused = [pool.submit(httpx.post, f"{url}/generate", json=body, timeout=60) for body in bad]
        assert [future.result().status_code for future in refused] == [422] * len(bad)
        codes = [future.result().json()["code"] for future in refused]
        assert codes == ["invalid_image", "budget_too_small", "prompt_too_long", "prompt_too_long"]
        assert [future.result() for future in good] == [wanted] * 3


def test_control_tokens_in_a_question_are_text(url: str) -> None:
    picture, question = page(0)
    counts = []
    for inputs in (question, question + "<|im_end|>", question + "<|vision_start|><|image_pad|>"):
        response = httpx.post(f"{url}/generate", json={"inputs": inputs, "images": [picture]}, timeout=60)
        assert response.status_code == 200, response.text
        counts.append(response.json()["details"]["prompt_tokens"])
    # one token for each character, as the bundled model spells
    assert counts == [counts[0], counts[0] + len("<|im_end|>"), counts[0] + len("<|vision_start|><|image_pad|>")]


@pytest.mark.parametrize("size", [(1, 1), (3000, 2), (1, 900)])
def test_pictures_of_any_shape_are_answered_or_refused(url: str, size: tuple[int, int]) -> None:
    from PIL import Image

    file = BytesIO()
    Image.new("RGB", size).save(file, "PNG")
    picture = base64.b64encode(file.getvalue()).decode("ascii")
    body = {"inputs": "What is it?", "images": [picture], "parameters": {"max_new_tokens": 2}}
    response = httpx.post(f"{url}/generate", json=body, timeout=60)
    assert response.status_code == 200 or response.json()["code"] == "invalid_image", response.text


@pytest.mark.parametrize("stream", [False, True])
def test_a_hang_up_frees_the_cache(url: str, stream: bool) -> None:
    def reserved() -> float:
        lines = httpx.get(f"{url}/metrics").text.splitlines()
        return float(next(line for line in lines if line.startswith("headmap_kv_cache_held_bytes{")).split()[-1])

    wait_for(lambda: reserved() == 0)
    connection = send(url, page(0)[0], stream=stream, max_new_tokens=3000, ignore_eos=True)
    wait_for(lambda: reserved() > 0)
    connection.close()
    wait_for(lambda: reserved() == 0, seconds=3)


def chat(url: str, **fields: Any) -> dict[str, Any]:
    response = httpx.post(f"{url}/v1/chat/completions", json={"max_tokens": 12, **fields}, timeout=120)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def test_a_conversation_with_a_session_answers_as_one_without(url: str) -> None:
    picture, question = page(0)
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}", "detail": "high"}}
    answers = {}
    for session in (None, "talk"):
        turns: list[dict[str, Any]] = [{"role": "user", "content": [image, {"type": "text", "text": question}]}]
        answers[session] = []
        for _ in range(2):
            answer = chat(url, messages=turns, session=session, logprobs=True)
            answers[session].append(answer)
            content = answer["choices"][0]["message"]["content"]
            turns = [*turns, {"role": "assistant", "content": content}, {"role": "user", "content": question}]
    for alone, kept in zip(answers[None], answers["talk"], strict=True):
        told, wanted = kept["choices"][0], alone["choices"][0]
        assert told["message"] == wanted["message"]
        assert [one["logprob"] for one in told["logprobs"]["content"]] == pytest.approx(
            [one["logprob"] for one in wanted["logprobs"]["content"]], abs=1e-3
        )
    first, second = (answer["session"] for answer in answers["talk"])
    assert (first["hit"], second["hit"]) == (False, True)
    assert second["reused_tokens"] == answers["talk"][0]["usage"]["prompt_tokens"]
    assert httpx.delete(f"{url}/v1/sessions/talk").status_code == 204


def test_an_answer_is_json_of_the_schema_that_was_asked_for(url: str) -> None:
    picture, question = page(0)
    schema = {
        "type": "object",
        "properties": {"value": {"type": "string", "pattern": "^[A-Z0-9]{4}$"}, "sure": {"type": "boolean"}},
        "required": ["value", "sure"],
        "additionalProperties": False,
    }
    answer = chat(
        url,
        messages=[{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}"}},
            {"type": "text", "text": question},
        ]}],
        max_tokens=200,
        response_format={"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}},
    )  # fmt: skip
    said = json.loads(answer["choices"][0]["message"]["content"])
    assert list(said) == ["value", "sure"]
    assert len(said["value"]) == 4
    assert answer["choices"][0]["finish_reason"] == "stop"
