"""The card of a map's Hub repository: README.md with YAML metadata, made from the map's provenance."""

from __future__ import annotations

import json
import re

from headmap.map_kinds import MapKind
from headmap.models import DEMO_MODEL, HEAD_MAP
from headmap.registry.map_file import MapFile

CARD = "README.md"

_LIBRARY = "library_name: headmap"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_SCORED: dict[MapKind, str] = {
    "visual": "How much each attention head of the model looks at the picture, after SparseMM (arXiv 2506.05344, "
    "section 3.1).",
    "text-retrieval": "How much each attention head of the model looks at the asked part of a text in the prompt: "
    "SparseMM's rule (arXiv 2506.05344, section 3.1) on text, after Wu et al. (arXiv 2404.15574).",
}
_TOLD = {
    "model": "model",
    "revision": "revision",
    "architecture": "architecture",
    "kind": "kind",
    "dataset": "dataset",
    "dataset_checksum": "dataset's checksum",
    "pages": "pages",
    "hits": "hits",
    "tokens_seen": "tokens seen",
    "tokens_matched": "tokens that read a word",
    "halves_top5pct_overlap": "halves: overlap of the top 5 %",
    "halves_spearman": "halves: rank correlation",
    "rule": "rule",
    "seed": "seed",
    "max_new_tokens": "new tokens a page, at most",
    "origin_map_id": "map",
    "origin_version": "version",
    "origin_created_at": "made",
}


def is_card(content: bytes) -> bool:
    """Whether a README.md is the card of a map, which the next map's may replace."""
    return _LIBRARY.encode() in content.splitlines()


def write_card(file: MapFile, repo: str) -> str:
    """The card of a map in the repository `repo`."""
    known = vars(file.provenance)
    facts = [(title, known[name]) for name, title in _TOLD.items() if known[name] is not None]
    scores = file.scores
    facts += [
        ("layers x heads", f"{scores.num_layers} x {scores.num_heads}"),
        ("KV heads of a layer", scores.num_kv_heads),
        ("scores' SHA-256", scores.checksum()),
        ("code", f"headmap {file.code_version or ''}".strip()),
    ]
    # JSON is YAML: a name with a colon or a quote stays a text.
    base = f"base_model: {json.dumps(file.model)}\n" if _is_on_hub(file.model) else ""
    rows = "\n".join(f"| {title} | {_cell(value)} |" for title, value in facts)
    return f"""---
{_LIBRARY}
{base}tags: {json.dumps(["headmap", "attention-heads", "kv-cache", *(tag for tag in file.tags if tag != "headmap")])}
---

# Head map of {_cell(file.model)}

{_SCORED[file.provenance.kind]}
`{HEAD_MAP}` has the scores and all that is known about them.

    headmap maps pull {repo}

| | |
|---|---|
{rows}
"""


def _is_on_hub(model: str) -> bool:
    return _HUB_ID.fullmatch(model) is not None and model != DEMO_MODEL


def _cell(value: object) -> str:
    return f"`{str(value).replace('`', ' ').replace('|', ' ')}`"
