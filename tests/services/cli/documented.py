"""The blocks of README and docs: commands, programs, and what is shown."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parents[3]
PAGES = {
    path.name if path.parent == ROOT else f"docs/{path.name}": path
    for path in sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
}

_BLOCK = re.compile(
    r"^ *```(?P<language>\w*)[^\n]*\n(?P<fenced>.*?)^ *```$|(?<=\n\n)(?P<indented>(?:    [^\n]*\n|\n(?=    ))+)",
    re.MULTILINE | re.DOTALL,
)

_CLUSTER = "`make setup` installs over the network; test_up.py runs what it starts"
_MINUTES = "takes minutes; tests run the same code on less"
_NO_DOCKER = "needs Docker; `make test-compose` runs the stack"
_UNTIL_CTRL_C = "runs until Ctrl-C; the stack that the other blocks call is one"
_HUB = "needs a model from the Hub"
_HUB_ON_DISK = "test_hub.py runs it against a Hub on disk"
_OWN_ENVIRONMENT = "`make test-clients` runs it in an environment of its own"

NOT_RUN = {
    ("README.md", "make demo"): _CLUSTER,
    ("README.md", ".venv/bin/headmap up --model Qwen"): _HUB,
    ("README.md", "docker compose up"): _NO_DOCKER,
    ("docs/command-line.md", "headmap up"): _HUB,
    ("docs/command-line.md", "headmap bench"): _MINUTES,
    ("docs/command-line.md", "headmap maps delete"): "the map of this registry has aliases; test_maps.py deletes one",
    ("docs/command-line.md", "headmap policies promote"): "needs an evaluation; test_remote.py promotes one",
    ("docs/command-line.md", "headmap maps push"): _HUB_ON_DISK,
    ("docs/command-line.md", "headmap maps pull"): _HUB_ON_DISK,
    ("docs/dashboard.md", "make up"): _CLUSTER,
    ("docs/datasets.md", "hf download"): "needs a data set from the Hub",
    ("docs/demo-model.md", "python -m headmap.demo."): _MINUTES,
    ("docs/command-line.md", "headmap evaluate"): _MINUTES,
    ("docs/choosing-a-budget.md", "headmap evaluate"): _MINUTES,
    ("docs/evaluating.md", ".venv/bin/headmap evaluate"): _MINUTES,
    ("docs/evaluating.md", "for budget in full"): _OWN_ENVIRONMENT,
    ("docs/evaluating.md", "LMUData="): _OWN_ENVIRONMENT,
    ("docs/getting-started.md", ".venv/bin/headmap up --data-dir demo-out/data --open"): _UNTIL_CTRL_C,
    ("docs/getting-started.md", ".venv/bin/hf download"): _HUB,
    ("docs/library.md", "from headmap import GenerateCache"): "getting-started.md has the whole program, which is run",
    ("docs/backup.md", "docker"): _NO_DOCKER,
    ("docs/findings.md", "headmap score headmap/smol-ocr"): "needs the model that `make smol` fetches",
    ("docs/kubernetes.md", "docker"): "needs Docker and a cluster; tests/deploy renders the chart",
    ("docs/monitoring.md", "docker"): _NO_DOCKER,
    ("docs/operations.md", "docker"): _NO_DOCKER,
    ("docs/scoring.md", "headmap score headmap/demo-ocr --pages auto"): _MINUTES,
    ("docs/scoring.md", "export HF_TOKEN"): _HUB_ON_DISK,
    ("docs/smol-model.md", "make smol"): "fetches 93 MB; test_smol.py builds such a folder and asks the built model",
    ("docs/smol-model.md", ".venv/bin/python -m headmap.demo.smol train"): _MINUTES,
}
"""Page and beginning of a block, which may be that of several -> why it is not run."""

SHOWN = {
    ("README.md", "cache           right"),
    ("docs/datasets.md", '{"file"'),
    ("docs/demo-model.md", "shared/headmap/demo/model/"),
    ("docs/getting-started.md", "2  Profile"),
    ("docs/sizing.md", "bytes per token ="),
    ("docs/sizing.md", "bytes ="),
    ("docs/sizing.md", "57,344 bytes per token"),
    ("docs/serving.md", "x-headmap-kv:"),
    ("docs/serving.md", '"session":'),
}
"""Blocks without a command: output, formulas, data."""


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    text: str

    def begins(self, places: dict[tuple[str, str], str] | set[tuple[str, str]]) -> bool:
        return any(page == self.page and self.text.startswith(start) for page, start in places)


def blocks(page: str) -> list[Block]:
    """Fenced and indented blocks of shell and Python; an indented one is shell, as is a fence without a language."""
    text = PAGES[page].read_text(encoding="utf-8")
    found = []
    for match in _BLOCK.finditer(text):
        fenced = match["fenced"]
        body, language = (match["indented"], "sh") if fenced is None else (fenced, match["language"] or "sh")
        if language in ("sh", "python"):
            found.append(Block(page, text.count("\n", 0, match.start()) + 1, language, dedent(body).strip("\n")))
    return found
