"""Kinds of maps: what a head looks at when it scores."""

from __future__ import annotations

from typing import Literal

MapKind = Literal["visual", "text-retrieval"]
"""`visual`: the picture (SparseMM, arXiv 2506.05344). `text-retrieval`: a text in the prompt (after Wu et al., arXiv
2404.15574). Only visual maps serve a model unless a request names another map by its id."""

VISUAL: MapKind = "visual"
TEXT_RETRIEVAL: MapKind = "text-retrieval"
MAP_KINDS: tuple[MapKind, ...] = (VISUAL, TEXT_RETRIEVAL)
