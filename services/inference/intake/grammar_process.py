"""The process that tries grammars. `grammar_pool` asks it.

A short grammar may take minutes or gigabytes to compile, or more stack than there is. What compiles here under a
deadline and a bound of memory does so in the server.

A vocabulary comes in once, under a model's name. Then forms of answers come in, and a description goes out of each that
compiles with it, or a refusal.
"""

from __future__ import annotations

import json
from itertools import accumulate, pairwise

from llguidance import LLTokenizer

from headmap.engine.sampling.grammar_forms import GrammarForms
from headmap.engine.sampling.matching import compiled, tokenizer_of
from headmap.engine.vocabulary import Vocabulary
from headmap.errors import HeadmapError
from headmap.sandbox import Channel, Head, serve

MOST_BYTES = 2**30
_TOO_MUCH = "compiling its grammar takes more memory than is allowed"


class _Trier:
    def __init__(self) -> None:
        self._models: dict[str, tuple[GrammarForms, LLTokenizer]] = {}

    def answer(self, server: Channel, head: Head, body: bytearray) -> None:
        if "lengths" in head:
            ends = [0, *accumulate(head["lengths"])]
            controls = {int(token): name for token, name in head["controls"].items()}
            vocabulary = Vocabulary(tuple(bytes(body[a:b]) for a, b in pairwise(ends)), controls)
            tokenizer = tokenizer_of(vocabulary, frozenset(head["eos"]))
            self._models[head["model"]] = GrammarForms(vocabulary), tokenizer
            server.send({})
            return
        forms, tokenizer = self._models[head["model"]]
        try:
            described = forms.describe(head["kind"], json.loads(body), head["field"])
            compiled(tokenizer, described, head["field"])
            server.send({}, described.encode())
        except HeadmapError as error:
            server.send({"detail": error.detail})
        except MemoryError:
            server.send({"detail": f"{head['field']}: {_TOO_MUCH}"})


def main() -> None:
    serve(_Trier().answer, memory_bytes=MOST_BYTES)


if __name__ == "__main__":
    main()
