"""First tokens of short prompts that come at one moment, against the same one by one, through the real engine."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from time import perf_counter

from PIL import Image

from benchmarks.books import figures as of
from benchmarks.books.figures import Figures
from headmap.engine.engine import Engine
from headmap.engine.messages import EngineRequest, Event, Failed, Finished, Token
from headmap.engine.sampling.params import SamplingParams
from headmap.families.base import PreparedPrompt
from headmap.families.loading import LoadedModel, load_model
from headmap.kvcache.plan import KVRequest
from headmap.models import find_model
from headmap.scoring.pages import make_page
from headmap.settings import DEMO_MODEL, Settings

PROMPTS = 16
PICTURE = (128, 64)
"""Pixels of a corner of a made-up page."""
_SECONDS = 120


@dataclass(frozen=True)
class Answer:
    """Seconds from the request to the first token, and seconds of its prefill: the whole pack's."""

    first_token: float
    prefill: float


def measure(figures: Figures, *, repeats: int = 7) -> None:
    """Ratios, medians over `repeats` in turn, on the bundled model; all sixteen fit in one pack."""
    settings = Settings(kv_memory_bytes=2**26)
    loaded = load_model(find_model(DEMO_MODEL, settings))
    engine = Engine(loaded, settings)
    engine.start()
    try:
        for what, prompts in (("text alone", _texts(loaded)), ("a small picture each", _pictures(loaded))):
            at_once(engine, prompts)  # warm up
            ratios, late = [], []
            for _ in range(repeats):
                alone = [at_once(engine, [prompt])[0] for prompt in prompts]
                packed = at_once(engine, prompts)
                ratios.append(max(one.first_token for one in packed) / sum(one.first_token for one in alone))
                pack = max(one.prefill for one in packed)
                late.append(
                    max((one.first_token - own.first_token) / pack for one, own in zip(packed, alone, strict=True))
                )
            figures.add(of.PACK, what, median(ratios), "x")
            figures.add(of.LATE, what, median(late), "x")
    finally:
        engine.stop(0)


def at_once(engine: Engine, prompts: Sequence[PreparedPrompt]) -> list[Answer]:
    """Submit all before the engine looks again: on its own thread, as another request ends. Raises their errors."""
    firsts, prefills, errors = dict[int, float](), dict[int, float](), list[Exception]()
    started, done = [0.0], threading.Event()

    def ended(number: int, event: Event) -> None:
        if isinstance(event, Token):
            firsts.setdefault(number, perf_counter() - started[0])
        elif isinstance(event, Finished):
            prefills[number] = event.prefill_ms / 1e3
        else:
            errors.append(event.error)
        if len(prefills) + len(errors) == len(prompts):
            done.set()

    def ask(event: Event) -> None:
        if isinstance(event, Failed):
            errors.append(event.error)
            done.set()
        if not isinstance(event, Finished):
            return
        started[0] = perf_counter()
        for number, prompt in enumerate(prompts):
            engine.submit(_request(str(number), prompt), partial(ended, number))

    engine.submit(_request("before", prompts[0]), ask)
    if not done.wait(_SECONDS):
        raise TimeoutError(f"{len(prefills)} of {len(prompts)} requests ended in {_SECONDS} s")
    if errors:
        raise errors[0]
    return [Answer(firsts[number], prefills[number]) for number in range(len(prompts))]


def _request(name: str, prompt: PreparedPrompt) -> EngineRequest:
    return EngineRequest(name, prompt, KVRequest("full"), SamplingParams(max_new_tokens=1, ignore_eos=True))


def _texts(loaded: LoadedModel) -> list[PreparedPrompt]:
    return [
        loaded.prepare([{"role": "user", "content": f"What is the value of KEY {number}?"}], [])
        for number in range(PROMPTS)
    ]


def _pictures(loaded: LoadedModel) -> list[PreparedPrompt]:
    content = [{"type": "image"}, {"type": "text", "text": "What is the value of KEY?"}]
    return [
        loaded.prepare([{"role": "user", "content": content}], [_corner(make_page(of.PROMPT_TOKENS, number).image)])
        for number in range(PROMPTS)
    ]


def _corner(page: Image.Image) -> Image.Image:
    return page.convert("RGB").crop((0, 0, *PICTURE))
