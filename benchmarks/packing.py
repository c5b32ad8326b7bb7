"""Short prompts in one forward against one by one: `python -m benchmarks.packing`, on the bundled model.

The forward alone, with full attention: no cache is filled. What sees the pictures is timed within it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import nn

from headmap.families.base import PreparedPrompt
from headmap.families.loading import LoadedModel, load_model
from headmap.kvcache.transformers.attention import with_cache
from headmap.models import find_model
from headmap.scoring.pages import TRANSCRIBE_PROMPT, make_page
from headmap.scoring.probe import Past, ProbeCache, Watched
from headmap.settings import DEMO_MODEL, Settings

SEED = 15


def run(*, prompts: int = 16, rounds: int = 9, threads: int = 2, dtype: str = "float32") -> list[dict[str, Any]]:
    """A row for each kind of prompts: medians of seconds packed and one by one, and their ratio."""
    torch.set_num_threads(threads)
    loaded = load_model(find_model(DEMO_MODEL, Settings()), device="cpu", dtype=dtype)
    text = [
        loaded.prepare([{"role": "user", "content": f"{number}: what is written on the page?"}], [])
        for number in range(prompts)
    ]
    corners = [_page(loaded, number, (0, 0, 128, 64)) for number in range(prompts)]
    pages = [_page(loaded, number) for number in range(prompts)]
    kinds = (("text", text), ("corners of pages", corners), ("pages", pages))
    rows = [_row(loaded, name, of, rounds) for name, of in kinds]
    for row in rows:
        print(json.dumps(row))
    return rows


def _page(loaded: LoadedModel, number: int, box: tuple[int, int, int, int] | None = None) -> PreparedPrompt:
    page = make_page(SEED, number).image
    content = [{"type": "image"}, {"type": "text", "text": TRANSCRIBE_PROMPT}]
    return loaded.prepare([{"role": "user", "content": content}], [page.crop(box) if box else page])


def _row(loaded: LoadedModel, name: str, prompts: Sequence[PreparedPrompt], rounds: int) -> dict[str, Any]:
    together, alone = [prompts], [[prompt] for prompt in prompts]
    found: dict[str, list[tuple[float, float]]] = {"packed": [], "alone": []}
    for _ in range(rounds):
        for way, packs in (("packed", together), ("alone", alone)):
            found[way].append(_seconds(loaded, packs))
    packed, one_by_one = (median(total for total, _ in found[way]) for way in ("packed", "alone"))
    return {
        "prompts": name,
        "count": len(prompts),
        "tokens": sum(prompt.prompt_tokens for prompt in prompts),
        "packed_s": packed,
        "alone_s": one_by_one,
        "ratio": median(one / other for (one, _), (other, _) in zip(found["packed"], found["alone"], strict=True)),
        "packed_vision_s": median(vision for _, vision in found["packed"]),
        "alone_vision_s": median(vision for _, vision in found["alone"]),
    }


@torch.inference_mode()
def _seconds(loaded: LoadedModel, packs: Sequence[Sequence[PreparedPrompt]]) -> tuple[float, float]:
    """Seconds of a forward for each pack up to the first new tokens, and the vision part of these seconds."""
    model, vision = loaded.model, [0.0]
    start = perf_counter()
    with _timed(loaded, vision):
        for prompts in packs:
            packed = loaded.family.pack(prompts)
            own = [Watched(Past(), prompt.prompt_tokens, rows=1, spans=prompt.spans) for prompt in prompts]
            output = model.model(
                **packed.inputs,
                position_ids=packed.position_ids,
                use_cache=True,
                **with_cache(model.model, ProbeCache(own, loaded.cache_shape)),
            )
            model.lm_head(output.last_hidden_state[0, list(packed.last_tokens)]).argmax(-1).tolist()
    return perf_counter() - start, vision[0]


@contextmanager
def _timed(loaded: LoadedModel, seconds: list[float]) -> Iterator[None]:
    """Add to `seconds` the time of each part of the model outside its text model."""
    text, starts = loaded.family.text_model(loaded.model), [0.0]

    def before(*_: object) -> None:
        starts[0] = perf_counter()

    def after(*_: object) -> None:
        seconds[0] += perf_counter() - starts[0]

    parts: list[nn.Module] = [part for part in loaded.model.model.children() if part is not text]
    hooks = [
        hook for part in parts for hook in (part.register_forward_pre_hook(before), part.register_forward_hook(after))
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


if __name__ == "__main__":
    run()
