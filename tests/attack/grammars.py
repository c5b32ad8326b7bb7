"""Forms of answers that take long to compile or at each token: others are answered meanwhile.

Alone: `python -m tests.attack grammars`.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from tests.attack.live import Answer, Case, Live, Outcome
from tests.attack.pictures import MOST_SECONDS, questioned

DEADLINE = 5.0
"""The default of HEADMAP_GRAMMAR_SECONDS."""


@dataclass(frozen=True)
class Form:
    """`make`: fields of a chat request. It may be answered anything below 500, and a question beside it soon."""

    name: str
    make: Callable[[Random], dict[str, Any]]
    short: bool = False

    def case(self) -> Case:
        return Case(self.name, self.run, self.short)

    def run(self, live: Live, random: Random) -> Outcome:
        said = [{"role": "user", "content": "Hi"}]
        sent = json.dumps({"messages": said, "max_tokens": 60, **self.make(random)}).encode()
        answers: list[Answer] = []
        asking = threading.Thread(
            target=lambda: answers.append(live.post("inference", "/v1/chat/completions", sent)), daemon=True
        )
        with live.watched("inference") as seen:
            asking.start()
            seconds, ordinary = questioned(live)
            asking.join(DEADLINE * 4)
        status = answers[0].status if answers else 0
        told = f"{status} {answers[0].body[:90] if answers else b''!r}; a question beside it {seconds:.2f} s"
        # A compiler may take a gigabyte before its end; health is what must not suffer.
        faults = [fault for fault in live.judge(seen, len(sent)) if "health" in fault]
        if not 200 <= status < 500:
            faults.append(f"answered {status}")
        if ordinary.status != 200 or seconds > MOST_SECONDS:
            faults.append(f"an ordinary question: {ordinary.status} after {seconds:.2f} s")
        return Outcome(told, tuple(faults))


def _keys(count: int) -> Callable[[Random], dict[str, Any]]:
    names = {f"^[a-z]{{1,{number + 2}}}x{number}$": {"type": "string"} for number in range(count)}
    return lambda random: {"guided_json": {"type": "object", "patternProperties": names}}


def _multiple(random: Random) -> dict[str, Any]:
    return {"guided_json": {"type": "integer", "multipleOf": random.randrange(900_001, 999_999, 2)}}


def _constant(random: Random) -> dict[str, Any]:
    letters = "".join(random.choice("abcdefgh") for _ in range(8_000))
    return {"guided_json": {"const": [letters] * 7}}


CASES = [
    Form("A{1000}{1000}", lambda random: {"guided_regex": "A{1000}{1000}"}, short=True).case(),
    Form("a pattern of A{1000}{1000}", lambda random: {
        "guided_json": {"type": "string", "pattern": "^A{1000}{1000}$"}}).case(),
    Form("160 patterns of names", _keys(160), short=True).case(),
    Form("320 patterns of names", _keys(320)).case(),
    Form("multiples of a large number", _multiple).case(),
    Form("a constant of 56,000 characters", _constant, short=True).case(),
    Form("repetitions of repetitions", lambda random: {"guided_regex": "(((a{1,50}){1,50}){1,50}){1,50}"}).case(),
    Form("an ambiguous grammar", lambda random: {
        "guided_grammar": 'start: start start | "a" | "b" | start start start'}, short=True).case(),
    Form("a late costly terminal", lambda random: {"guided_grammar": 'start: "x" A\nA: /A{1000}{1000}/'}).case(),
    Form("deep parentheses", lambda random: {
        "guided_grammar": "start: " + "(" * 30_000 + '"a"' + ")" * 30_000}).case(),
    Form("references that double", lambda random: {"guided_json": {
        "$defs": {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(60)}
        | {"d60": {"type": "string"}}, "$ref": "#/$defs/d0"}}).case(),
]  # fmt: skip
