"""`headmap generate`: ask about pictures without a server, and see how much of the cache was kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.common import (
    DataDir,
    console,
    fail,
    find_named_model,
    json_option,
    one_line_errors,
    print_json,
    quiet_libraries,
    share_of_prompt,
    waiting,
)

if TYPE_CHECKING:
    from PIL.Image import Image

    from headmap.engine.messages import Finished
    from headmap.head_scores import HeadScores
    from headmap.kvcache.plan import KVRequest
    from headmap.models import ModelInfo
    from headmap.registry.maps import MapRecord
    from headmap.settings import Settings


@one_line_errors
def generate(
    model: Annotated[str, typer.Argument(help="Model: headmap/demo-ocr, a Hub id in the local cache, or a folder.")],
    question: Annotated[str, typer.Argument(help="Your question.")],
    image: Annotated[
        list[Path],
        typer.Option(help="A PNG, JPEG, WebP, GIF, BMP or TIFF picture; may be repeated.", exists=True, dir_okay=False),
    ],
    method: Annotated[
        str | None,
        typer.Option(
            help="full, sparsemm, snapkv, pyramidkv, adakv or random. "
            "[default: sparsemm with --budget or --ratio, else full]"
        ),
    ] = None,
    budget: Annotated[int | None, typer.Option(min=1, help="Tokens to keep per KV head, on average.")] = None,
    ratio: Annotated[
        float | None, typer.Option(callback=share_of_prompt, help="Share of the prompt to keep: 0.2 for 20 %.")
    ] = None,
    select: Annotated[
        str | None, typer.Option(help="Which tokens are kept: snapkv, last-query or mixkv. [default: snapkv]")
    ] = None,
    map_name: Annotated[str | None, typer.Option("--map", help="Id or alias of a map. [default: default]")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of the answer.")] = 128,
    as_json: Annotated[bool, json_option("model", "generated_text", "finish_reason", "generated_tokens", "kv")] = False,
    data_dir: DataDir = None,
) -> None:
    """Ask a model about pictures, and print the answer as it comes.

    \b
    Example:
      headmap generate headmap/demo-ocr --image page.png --ratio 0.2 "What is the value of BXP?"
    """
    from headmap.errors import EmptyPrompt
    from headmap.kvcache.methods import METHODS
    from headmap.kvcache.plan import KVRequest
    from headmap.kvcache.planning import check_request
    from headmap.kvcache.select import DEFAULT_SELECTOR, get_selector

    info, settings = find_named_model(model, data_dir)
    if not question.strip():
        raise EmptyPrompt("question: is empty")
    chosen = method or ("full" if budget is None and ratio is None else "sparsemm")
    if budget is not None and ratio is not None:
        fail("--budget and --ratio: give one of them", code=2)
    if chosen not in METHODS:
        fail(f"--method: {chosen!r} is none of {', '.join(METHODS)}", code=2)
    selector = get_selector(select or DEFAULT_SELECTOR)
    check_request(KVRequest(chosen, budget=budget, ratio=ratio, select=selector))  # refuse before anything is loaded
    if map_name is not None and chosen != "sparsemm":
        fail(f"--map: only sparsemm reads a map, got {map_name!r} with {chosen}; give a --budget or --ratio", code=2)
    found = find_map_scores(settings, info, map_name) if chosen == "sparsemm" else None
    note = f", map {found[0].id}{'' if found[1] == 'exact' else ' of another revision'}" if found else ""
    if chosen == "sparsemm" and found is None:
        if settings.no_map_policy == "error":
            fail(f"{model} has no map; make one with: headmap score {model}")
        chosen, note = "snapkv", ", no map yet, so every head keeps the same"
    kv = KVRequest(chosen, budget=budget, ratio=ratio, select=selector)
    say: Callable[[str], None] = (lambda text: None) if as_json else (lambda text: typer.echo(text, nl=False))
    end = _answer(info, settings, question, image, kv, found and found[2], max_new_tokens, say)
    if as_json:
        print_json(
            {
                "model": info.name,
                "generated_text": end.generated_text,
                "finish_reason": end.finish_reason,
                "generated_tokens": len(end.token_ids),
                "kv": {
                    "method": chosen,
                    "map_id": found and found[0].id,
                    "kept_tokens": end.kept_tokens,
                    "full_tokens": end.full_tokens,
                    "bytes": end.kv_bytes,
                    "full_bytes": end.kv_full_bytes,
                },
            }
        )
        return
    typer.echo()
    share = 100 * end.kept_tokens / end.full_tokens
    console(stderr=True).print(
        f"{chosen}: kept {end.kept_tokens} of {end.full_tokens} tokens ({share:.1f} %), "
        f"{end.kv_bytes} of {end.kv_full_bytes} bytes{note}",
        style="dim",
    )


def find_map_scores(settings: Settings, info: ModelInfo, name: str | None) -> tuple[MapRecord, str, HeadScores] | None:
    """The map, how it matches the model's revision, and its scores; None if there is none and none was named."""
    from headmap.errors import MapNotFound
    from headmap.registry.bundled import use_registry
    from headmap.registry.maps import find_map, get_scores, resolve_map
    from headmap.registry.session import open_database

    use_registry(settings)
    database = open_database(settings)
    try:
        with database.read() as session:
            try:
                record, match = (
                    resolve_map(session, info.name, info.revision)
                    if name is None
                    else find_map(session, info.name, name, info.revision)
                )
            except MapNotFound:
                if name is not None:
                    raise
                return None
            return record, match, get_scores(session, record.id)
    finally:
        database.close()


def _read(paths: list[Path], settings: Settings) -> list[Image]:
    from headmap.pictures.decode import decode_picture

    return [decode_picture(path.read_bytes(), str(path), max_pixels=settings.max_image_pixels) for path in paths]


def _answer(
    info: ModelInfo,
    settings: Settings,
    question: str,
    paths: list[Path],
    kv: KVRequest,
    scores: HeadScores | None,
    max_new_tokens: int,
    say: Callable[[str], None],
) -> Finished:
    """`say` is called with each piece of the answer."""
    quiet_libraries()
    import queue

    from headmap.engine.engine import Engine
    from headmap.engine.messages import EngineRequest, Event, Failed, Finished, Token
    from headmap.engine.sampling.params import SamplingParams
    from headmap.families.loading import load_model

    images = _read(paths, settings)
    with waiting(f"Loading {info.name}", console(stderr=True)):
        loaded = load_model(info, device=settings.device, dtype=settings.dtype)
        content = [*({"type": "image"} for _ in images), {"type": "text", "text": question}]
        prompt = loaded.prepare([{"role": "user", "content": content}], images)
        engine = Engine(loaded, settings)
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    request = EngineRequest("cli", prompt, kv, SamplingParams(max_new_tokens=max_new_tokens), scores)
    engine.start()
    try:
        engine.submit(request, events.put)
        while True:
            event = events.get()
            if isinstance(event, Token):
                say(event.text)
            elif isinstance(event, Failed):
                raise event.error
            elif isinstance(event, Finished):
                say(event.tail)
                return event
    finally:
        engine.stop(0)
