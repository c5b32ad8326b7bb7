"""The details of the cache in the answers of every dialect: bytes, map, session, and the tokens that a head keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from headmap.engine.messages import Finished
from headmap.families.base import VisualTokens
from headmap.kvcache.methods import get_method
from headmap.kvcache.plan import KVRequest
from headmap.kvcache.select import selector_name
from services.inference.bridge import Generation
from services.inference.http.schemas.kv import KeptInPicture, KeptTokensBody, KVDetails, SelectDetails, SessionDetails


def kv_details(generation: Generation, finished: Finished) -> KVDetails:
    kv, found, policy = generation.request.kv, generation.map, generation.policy
    recent, select = _select_details(kv, finished.budget)
    match = "none" if generation.map_missing else found and found.match
    return KVDetails(
        method=kv.method,
        budget=finished.budget,
        allocation=kv.allocation,
        keep_recent=recent,
        select=select,
        map_id=found and found.id,
        map_match=match,
        policy=policy and policy.name,
        policy_version=policy and policy.version,
        kept_tokens=finished.kept_tokens,
        full_tokens=finished.full_tokens,
        bytes=finished.kv_bytes,
        full_bytes=finished.kv_full_bytes,
    )


def _select_details(kv: KVRequest, budget: int) -> tuple[int | None, SelectDetails | None]:
    """How many recent tokens are kept, and what chooses the others; None for a method that keeps all."""
    if not get_method(kv.method).needs_budget:
        return None, None
    recent, window = kv.recent(budget)
    used = kv.selector.settled(window)
    return recent, SelectDetails(name=selector_name(kv.selector), **asdict(used))


def session_details(generation: Generation, finished: Finished) -> SessionDetails | None:
    """None if the request named no session."""
    if generation.request.session is None:
        return None
    return SessionDetails(
        hit=finished.reused_tokens > 0, reused_tokens=finished.reused_tokens, kept=finished.session_kept
    )


def kept_tokens(generation: Generation, finished: Finished) -> KeptTokensBody | None:
    """The tokens that the watched head keeps; None if the request watches no head."""
    prompt, watched = generation.request.prompt, generation.request.watched
    if watched is None:
        return None
    layer_idx, kv_head = watched
    pictures = zip(prompt.images, prompt.image_starts, strict=True)
    return KeptTokensBody(
        layer=layer_idx,
        kv_head=kv_head,
        positions=list(finished.kept_positions),
        pictures=[kept_in_picture(image, start, finished.kept_positions) for image, start in pictures],
    )


def kept_in_picture(image: VisualTokens, start: int, positions: Sequence[int]) -> KeptInPicture:
    """`start`: index in the prompt of the picture's first token; `positions`: indices of the kept tokens."""
    kept = np.isin(start + image.grid, positions)
    own = sum(start <= position < start + image.count for position in positions)
    return KeptInPicture(
        start=start, tokens=image.count, kept_tokens=own, x=image.x.borders, y=image.y.borders, cells=kept.tolist()
    )
