"""Bodies that cost more than they look: every kind that a route parses, checks, searches or tells of."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from tests.attack.live import Answer, Case, Live, Outcome, Service

MIB = 2**20
LONGEST_PROBLEM = 4096
"""Bytes of an error document."""

_CHAT = "/v1/chat/completions"


@dataclass(frozen=True)
class Body:
    """`make`: its bytes. `statuses`: what it may be answered, any status below 500 where that is empty."""

    name: str
    path: str
    make: Callable[[Random], bytes]
    service: Service = "inference"
    short: bool = False
    statuses: Sequence[int] = ()

    def case(self) -> Case:
        return Case(self.name, self.run, self.short)

    def run(self, live: Live, random: Random) -> Outcome:
        body = self.make(random)
        with live.watched(self.service) as seen:
            answer = live.post(self.service, self.path, body)
        health = "  ".join(
            f"{name} {seen.share(share):5.0f}" for name, share in (("p50", 0.5), ("p99", 0.99), ("most", 1))
        )
        sizes = f"{len(body) / MIB:5.1f} MiB  +{seen.growth / MIB:4.0f} MiB"
        told = f"{answer.status}  {sizes}  health {health} ms  {_detail(answer)}"
        return Outcome(told, (*live.judge(seen, len(body)), *self._faults(answer)))

    def _faults(self, answer: Answer) -> list[str]:
        faults = []
        if answer.status == 0 or answer.status >= 500 or (self.statuses and answer.status not in self.statuses):
            faults.append(f"answered {answer.status}: {answer.body[:200]!r}")
        if answer.status >= 400 and len(answer.body) > LONGEST_PROBLEM:
            faults.append(f"the refusal has {len(answer.body)} bytes")
        if answer.status >= 400 and not _detail(answer):
            faults.append("the refusal does not say what is at fault")
        return faults


def _detail(answer: Answer) -> str:
    """What a refusal says."""
    try:
        document = json.loads(answer.body)
        told = document["error"]["message"] if "error" in document and "detail" not in document else document["detail"]
    except (ValueError, KeyError, TypeError):
        return ""
    return str(told)[:70]


def _fill(size: int, before: bytes, item: bytes, after: bytes) -> bytes:
    """`item` as often as `size` bytes hold it, between what is before and after; commas between them."""
    count = max(1, (size - len(before) - len(after)) // (len(item) + 1))
    return before + b",".join([item] * count) + after


def _many(before: bytes, item: bytes, after: bytes, size: int) -> Callable[[Random], bytes]:
    return lambda random: _fill(size, before, item, after)


def _numbered(before: bytes, item: bytes, after: bytes, count: int) -> Callable[[Random], bytes]:
    """`item` holds `%d`; a number of its own in each."""
    return lambda random: before + b",".join(item % number for number in range(count)) + after


def _text(before: bytes, text: bytes, after: bytes, size: int) -> Callable[[Random], bytes]:
    return lambda random: before + text * ((size - len(before) - len(after)) // len(text)) + after


def _chat(more: bytes) -> tuple[bytes, bytes]:
    """A good chat request, cut where `more` may go on."""
    return b'{"messages":[{"role":"user","content":"Hi"}],"max_tokens":1,' + more, b"}"


def _good(path: str, **more: Any) -> Callable[[Random], bytes]:
    same = {"inputs": "Hi"} if path == "/generate" else {"messages": [{"role": "user", "content": "Hi"}]}
    return lambda random: json.dumps({**same, **more}).encode()


def _map(random: Random) -> bytes:
    """A public SparseMM file of 57 MiB."""
    pages = ",".join(f"{random.random() * random.randrange(2):.3g}" for _ in range(12_000))
    scores = ",".join(f'"{layer}-{head}":[{pages}]' for layer in range(32) for head in range(32))
    return f'{{"model":"nobody/none","num_kv_heads":8,"scores":{{{scores}}}}}'.encode()


def _base64(size: int) -> Callable[[Random], bytes]:
    def make(random: Random) -> bytes:
        block = bytes(
            random.choice(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/") for _ in range(4096)
        )
        return b'{"inputs":"What?","images":["' + block * (size // len(block)) + b'"]}'

    return make


def _cases() -> list[Body]:
    found: list[Body] = []

    def add(name: str, path: str, make: Callable[[Random], bytes], **more: Any) -> None:
        found.append(Body(name, path, make, **more))

    for size in (1, 4, 16, 64):
        add(
            f"images of numbers, {size} MiB",
            "/generate",
            _many(b'{"inputs":"","images":[', b"1", b"]}", size * MIB),
            short=size == 4,
        )
    for item in (b"1", b'""', b"{}", b"[]", b"null", b'{"role":"user","content":[]}', b'{"role":"nobody"}'):
        add(f"messages of {item.decode()}", _CHAT, _many(b'{"messages":[', item, b"]}", 16 * MIB), short=item == b"{}")
        inner = b'{"messages":[{"role":"user","content":['
        add(f"parts of {item.decode()}", _CHAT, _many(inner, item, b"]}]}", 16 * MIB))
    add(
        "parts of empty text",
        _CHAT,
        _many(b'{"messages":[{"role":"user","content":[', b'{"type":"text","text":""}', b"]}]}", 16 * MIB),
    )
    add(
        "as many parts as are taken",
        _CHAT,
        _many(b'{"messages":[{"role":"user","content":[', b'{"type":"text","text":""}', b"]}]}", 100_000),
    )
    unknown = b'{"role":"user","content":"Hi",' + b",".join(b'"f%d":1' % n for n in range(7)) + b"}"
    add("unknown fields of messages", _CHAT, _many(b'{"messages":[', unknown, b"]}", 200_000))
    for count in (10_000, 1_000_000):
        add(f"{count} unknown fields", _CHAT, _numbered(*_put(_chat(b""), b'"f%d":1'), count), short=count == 10_000)
        add(
            f"{count} unknown fields of parameters",
            "/generate",
            _numbered(b'{"inputs":"","parameters":{', b'"f%d":1', b"}}", count),
        )
        add(
            f"{count} biases that are none", _CHAT, _numbered(*_put(_chat(b'"logit_bias":{'), b'"%d":"x"', b"}"), count)
        )
        add(f"{count} good biases", _CHAT, _numbered(*_put(_chat(b'"logit_bias":{'), b'"%d":1', b"}"), count))
        add(f"metadata of {count}", _CHAT, _numbered(*_put(_chat(b'"metadata":{'), b'"%d":1', b"}"), count))
        add(f"{count} stops", _CHAT, _numbered(*_put(_chat(b'"stop":['), b'"%d"', b"]"), count))
        add(f"{count} stop tokens", _CHAT, _numbered(*_put(_chat(b'"stop_token_ids":['), b"%d.5", b"]"), count))
        add(
            f"{count} tools",
            _CHAT,
            _numbered(*_put(_chat(b'"tools":['), b'{"type":"function","function":{"name":"f%d"}}', b"]"), count),
        )
        add(f"{count} token ids to detokenize", "/detokenize", _numbered(b'{"tokens":[', b"%d", b"]}", count))
        add(f"{count} bad token ids", "/detokenize", _many(b'{"tokens":[', b'"x"', b"]}", 4 * count))
        add(
            f"prompt of {count} token ids",
            "/v1/completions",
            _many(b'{"max_tokens":1,"prompt":[', b"5", b"]}", 2 * count),
        )
        add(f"{count} prompts", "/v1/completions", _many(b'{"prompt":[', b'""', b"]}", 3 * count))
        add(f"{count} prompts of ids", "/v1/completions", _many(b'{"prompt":[', b"[5]", b"]}", 4 * count))
        add(
            f"{count} items of input",
            "/v1/responses",
            _many(b'{"input":[', b"{}", b"]}", 3 * count),
            short=count == 1_000_000,
        )
    add("10 million token ids", "/detokenize", _many(b'{"tokens":[', b"5", b"]}", 20_000_000), short=True)

    schema = b'{"type":"object","properties":{%s}}' % b",".join(b'"p%d":{"type":"string"}' % n for n in range(600_000))
    for name, more in {
        "json_schema": b'"response_format":{"type":"json_schema","json_schema":{"name":"x","schema":%s}}',
        "guided_json": b'"guided_json":%s',
        "structured_outputs": b'"structured_outputs":{"json":%s}',
        "tool": b'"tool_choice":"required","tools":[{"type":"function","function":{"name":"f","parameters":%s}}]',
    }.items():
        for size in (10_000, 16 * MIB):
            cut = schema[:size].rsplit(b',"', 1)[0] + b"}}"
            add(f"{name} of {size >> 10} KiB", _CHAT, _put_text(more, cut), short=name == "tool" and size < MIB)
    long_constant = b'{"const":"%s"}' % (b"a" * (16 * MIB))
    add("a constant of 16 MiB", _CHAT, _put_text(b'"guided_json":%s', long_constant))
    add(
        "a schema as text, 16 MiB of lists",
        _CHAT,
        _put_text(b'"guided_json":"%s"', b"[1" + b",1" * (8 * MIB) + b"]"),
        short=True,
    )
    add("guided_regex of 16 MiB", _CHAT, _put_text(b'"guided_regex":"%s"', b"a?" * (8 * MIB)))
    add("guided_grammar of 16 MiB", _CHAT, _put_text(b'"guided_grammar":"%s"', b"a ::= b\\n" * (MIB)))
    add("guided_choice of 16 MiB", _CHAT, _put_text(b'"guided_choice":["%s"]', b"a" * (16 * MIB)))
    add("arguments of an earlier call, 16 MiB of lists", _CHAT, lambda random: (
        b'{"messages":[{"role":"assistant","tool_calls":[{"id":"c","type":"function","function":{"name":"f","arguments":"'
        b'{\\"a\\":[' + b"1," * (8 * MIB) + b'1]}"}}]}]}'), short=True)  # fmt: skip

    add("deep inputs", "/generate", lambda random: b'{"inputs":' + b"[" * (8 * MIB) + b"]" * (8 * MIB) + b"}")
    add("wide inputs", "/generate", _many(b'{"inputs":[', b"[]", b"]}", 30_000_000), short=True)
    add("inputs as an object", "/generate", _numbered(b'{"inputs":{', b'"%d":0', b"}}", 1_000_000))
    for name, text in {"![](": b"![](", "![": b"![", "![](a)": b"![](a)", "](": b"](", "![](![]": b"![](![]"}.items():
        add(f"markdown {name}", "/generate", _text(b'{"inputs":"', text, b'"}', 4 * MIB), short=name == "![")
    add("one text of 60 MiB", "/generate", _text(b'{"inputs":"', b"a", b'"}', 60 * MIB))
    add("one text of 60 MiB, with an emoji", "/generate", _text('{"inputs":"😀'.encode(), b"a", b'"}', 60 * MIB))
    add("one text of 60 MiB of escapes", "/generate", _text(b'{"inputs":"', b"\\/", b'"}', 60 * MIB))
    for name, unit in {"letters": b"a", "escapes": b"\\/", "escaped letters": b"\\u0041", "blank space": b" "}.items():
        add(f"inputs of 28 MiB of {name}", "/generate", _text(b'{"inputs":"', unit, b'"}', 28 * MIB))
        add(
            f"a chat of 28 MiB of {name}",
            _CHAT,
            _text(b'{"messages":[{"role":"user","content":"', unit, b'"}]}', 28 * MIB),
        )
    add("inputs of 28 MiB with an emoji", "/generate", _text('{"inputs":"😀'.encode(), b"a", b'"}', 28 * MIB))
    add(
        "inputs of 28 MiB with an emoji at the end", "/generate", _text(b'{"inputs":"', b"a", '😀"}'.encode(), 28 * MIB)
    )
    add("two texts of 28 MiB", "/generate", lambda random: (
        b'{"inputs":"' + b"a" * (28 * MIB) + b'","images":["' + b"a" * (28 * MIB) + b'"]}'))  # fmt: skip
    add("three pictures of 19 MiB", "/generate", lambda random: (
        b'{"inputs":"","images":["' + b'","'.join([b"ABCD" * (19 * MIB // 4)] * 3) + b'"]}'))  # fmt: skip
    add("an escaped picture of 28 MiB", "/generate", _text(b'{"inputs":"","images":["data:,', b"%41", b'"]}', 28 * MIB))
    add(
        "short texts with an emoji",
        _CHAT,
        _many(b'{"messages":[', '"😀'.encode() + b"a" * 10_000 + b'"', b"]}", 4 * MIB),
    )
    add("short texts of escapes", _CHAT, _many(b'{"messages":[', b'"' + b"\\/" * 4000 + b'"', b"]}", 60 * MIB))
    add("blank inputs of 60 MiB", "/generate", _text(b'{"inputs":"', b" ", b'"}', 60 * MIB))
    add("a name of 60 MiB", "/generate", _text(b'{"', b"a", b'":1}', 60 * MIB))
    add("a model's name of 16 MiB", "/generate", _text(b'{"inputs":"","model":"', b"\\u0007", b'"}', 16 * MIB))
    add("a picture of 60 MiB", "/generate", _base64(60 * MIB), short=True, statuses=[413])
    add(
        "an escaped picture of 60 MiB",
        "/generate",
        _text(b'{"inputs":"","images":["data:image/png,', b"%41", b'"]}', 60 * MIB),
    )
    add(
        "10 million empty lists in one another",
        _CHAT,
        lambda random: b'{"messages":' + b"[" * 10**7 + b"]" * 10**7 + b"}",
    )
    add("numbers of 4000 digits", "/generate", _many(b'{"inputs":[', b"1" * 4000, b"]}", 60 * MIB))
    add("numbers of huge exponents", "/v1/completions", _many(b'{"prompt":[', b"1e999999", b"]}", 4 * MIB))
    add("one name a million times", "/generate", _many(b'{"inputs":"",', b'"images":[]', b"}", 12_000_000))
    add("60 MiB of blank space", "/generate", _text(b'{"inputs":', b" ", b'"Hi"}', 60 * MIB))
    add("60 MiB of blank space after it", "/generate", lambda random: b'{"inputs":"Hi"}' + b" " * (60 * MIB))
    add("60 MiB that is no JSON", "/generate", lambda random: b'"' * (60 * MIB))

    for value in (1e-38, 1e-46, 5e-324):
        for name in ("temperature", "top_p", "repetition_penalty", "min_p"):
            add(f"{name} {value}", "/generate", _good("/generate", parameters={name: value, "max_new_tokens": 2}))
            add(f"chat's {name} {value}", _CHAT, _good(_CHAT, **{name: value, "max_tokens": 2}))

    add(
        "score of unknown fields",
        "/score",
        _numbered(b'{"model":"x",', b'"f%d":1', b"}", 1_000_000),
        service="scoring",
        short=True,
    )
    add("score of one text of 60 MiB", "/score", _text(b'{"model":"', b"a", b'"}', 60 * MIB), service="scoring")
    add("score of a list", "/score", _many(b"[", b"1", b"]", 16 * MIB), service="scoring")
    add("a map of 57 MiB", "/maps", _map, service="scoring", short=True, statuses=[201])
    add(
        "a map of one list",
        "/maps",
        _many(b'{"model":"x","num_kv_heads":1,"scores":{"0-0":[', b"0.5", b"]}}", 57 * MIB),
        service="scoring",
    )
    add(
        "a map of texts",
        "/maps",
        _many(b'{"model":"x","num_kv_heads":1,"scores":{"0-0":[', b'"a"', b"]}}", 57 * MIB),
        service="scoring",
    )
    add(
        "a map of a million heads",
        "/maps",
        _numbered(b'{"model":"x","num_kv_heads":1,"scores":{', b'"0-%d":[1]', b"}}", 1_000_000),
        service="scoring",
    )
    add(
        "a map of lists",
        "/maps",
        _many(b'{"model":"x","num_kv_heads":1,"scores":[', b"[1]", b"]}", 57 * MIB),
        service="scoring",
    )
    add("a map of unknown fields", "/maps", _numbered(b'{"model":"x",', b'"f%d":1', b"}", 1_000_000), service="scoring")
    return found


def _put(around: tuple[bytes, bytes], item: bytes, closing: bytes = b"") -> tuple[bytes, bytes, bytes]:
    before, after = around
    return before, item, closing + after


def _put_text(more: bytes, text: bytes) -> Callable[[Random], bytes]:
    before, after = _chat(more.replace(b"%s", text))
    return lambda random: before + after


CASES = [body.case() for body in _cases()]
