"""The processes that try grammars: a deadline ends them, as do clients that leave, and others are served meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from headmap.engine.sampling.grammar import Grammars
from headmap.engine.vocabulary import Vocabulary
from headmap.errors import InvalidParameter, ShuttingDown
from headmap.http.receiving import RequestBytes, SharedBytes
from headmap.settings import Settings
from services.inference.asked import AnswerForm
from services.inference.intake import grammar_process
from services.inference.intake.grammar_pool import GrammarPool
from services.inference.served_model import OpenedModel
from tests.services.inference.intake.test_image_pool import until_gone

END = 256
VOCABULARY = Vocabulary((*(bytes([byte]) for byte in range(256)), b""), {END: "<end>"})
COSTLY = {"type": "integer", "multipleOf": 999_983}
"""Takes half a minute to compile."""


class CountedGrammars(Grammars):
    """Counts what is compiled in this process."""

    compiled = 0

    def described(self, text: str, field: str) -> Any:
        self.compiled += 1
        return super().described(text, field)


def opened() -> OpenedModel:
    grammars = CountedGrammars(VOCABULARY, frozenset({END}))
    return cast(OpenedModel, SimpleNamespace(vocabulary=VOCABULARY, eos_token_ids=frozenset({END}), grammars=grammars))


MODEL = opened()


@pytest.fixture
async def pool() -> AsyncIterator[GrammarPool]:
    pool = GrammarPool(Settings(grammar_seconds=20))
    yield pool
    pool.close()


async def make(
    pool: GrammarPool,
    kind: Any,
    value: object,
    caller: str = "key a",
    name: str = "a model",
    model: OpenedModel = MODEL,
) -> Any:
    held = RequestBytes(SharedBytes(2**20), caller)
    return await pool.make(name, model, AnswerForm(kind, value, "guided"), held)


def written(grammar: Any) -> bytes:
    """The one text that a grammar takes."""
    match, text = grammar.start(), b""
    while not match.done:
        token = int(match.allowed(END + 1).nonzero()[0, 0])
        match.accept(token)
        text += VOCABULARY.written(token)
    return text


def pids(pool: GrammarPool) -> list[int]:
    return [one.pid for one in pool.pool.helpers if one.pid is not None]


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ("json_schema", {"const": {"é": [1, "x"]}}, '{"é":[1,"x"]}'),
        ("regex", "ab{3}c", "abbbc"),
        ("choice", ["yes"], "yes"),
        ("grammar", 'start: "a" "b"', "ab"),
        ("grammar", 'root ::= "a" "b"', "ab"),
    ],
)
async def test_what_compiles_there_is_compiled_here(pool: GrammarPool, kind: Any, value: object, text: str) -> None:
    assert written(await make(pool, kind, value)) == text.encode()


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("json_schema", {"type": "nothing"}),
        ("json_schema", {"enum": ["x" * 70_000]}),
        ("regex", "("),
        ("regex", "\ud800"),
        ("choice", [""]),
        ("grammar", "start: " + "(" * 30_000 + '"a"' + ")" * 30_000),
        ("grammar", "root ::= " + "(" * 30_000 + '"a"' + ")" * 30_000),
    ],
)
async def test_what_does_not_is_refused_there(pool: GrammarPool, kind: Any, value: object) -> None:
    await make(pool, "regex", "a")
    before, model = pids(pool), opened()
    with pytest.raises(InvalidParameter, match=r"^guided: ") as caught:
        await make(pool, kind, value, model=model)
    assert caught.value.param == "guided"
    assert cast(Any, model.grammars).compiled == 0
    assert pids(pool) == before


async def test_what_takes_too_long_is_refused_and_its_process_ended(pool: GrammarPool) -> None:
    await make(pool, "regex", "a")
    (process,) = pids(pool)
    pool._seconds = 0.2
    model = opened()
    with pytest.raises(InvalidParameter, match=r"guided: its grammar is not compiled within 0\.2 seconds"):
        await make(pool, "json_schema", COSTLY, model=model)
    assert cast(Any, model.grammars).compiled == 0
    await until_gone(process)
    pool._seconds = 20
    assert written(await make(pool, "regex", "abc")) == b"abc"


async def test_a_client_that_leaves_ends_its_compile(pool: GrammarPool) -> None:
    await make(pool, "regex", "a")
    (process,) = pids(pool)
    asking = asyncio.create_task(make(pool, "json_schema", COSTLY))
    await asyncio.sleep(0.1)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await until_gone(process)
    assert written(await make(pool, "regex", "abc")) == b"abc"


async def test_another_caller_is_served_meanwhile(pool: GrammarPool) -> None:
    hostile = [asyncio.create_task(make(pool, "json_schema", COSTLY)) for _ in range(6)]
    await asyncio.sleep(0.1)
    assert written(await make(pool, "regex", "abc", "key b")) == b"abc"
    assert not any(task.done() for task in hostile)
    for task in hostile:
        task.cancel()
    await asyncio.gather(*hostile, return_exceptions=True)


async def test_a_process_that_dies_costs_one_request(pool: GrammarPool) -> None:
    await make(pool, "regex", "a")
    (process,) = pids(pool)
    asking = asyncio.create_task(make(pool, "json_schema", COSTLY))
    await asyncio.sleep(0.1)
    os.kill(process, signal.SIGABRT)
    with pytest.raises(InvalidParameter, match=r"guided: compiling its grammar fails \(-6\)"):
        await asking
    assert written(await make(pool, "regex", "abc")) == b"abc"


async def test_models_are_told_apart(pool: GrammarPool) -> None:
    """By one process, which is told each vocabulary once."""
    letters = Vocabulary((b"a", b"b", b""), {2: "<end>"})
    small = cast(
        OpenedModel,
        SimpleNamespace(vocabulary=letters, eos_token_ids={2}, grammars=Grammars(letters, frozenset({2}))),
    )
    for _ in range(2):
        assert written(await make(pool, "regex", "abc")) == b"abc"
        with pytest.raises(InvalidParameter, match="cannot write 'c'"):
            await make(pool, "choice", ["c"], name="letters", model=small)
    (process,) = pool.pool.helpers[1:]
    assert process.told == {"a model", "letters"}


async def test_closing_ends_what_is_at_work(pool: GrammarPool) -> None:
    asking = asyncio.create_task(make(pool, "json_schema", COSTLY))
    await asyncio.sleep(0.1)
    pool.close()
    with pytest.raises(ShuttingDown):
        await asking


def test_its_processes_import_no_model_code() -> None:
    names = {"torch", "transformers", "numpy", "pydantic"}
    code = f"import sys, {grammar_process.__name__}; print({names} & set(sys.modules) or [])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
