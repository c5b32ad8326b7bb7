"""`headmap generate`: ask about pictures without a server, and see how much of the cache was kept."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.common import DataDir, console, fail, find_named_model, one_line_errors, quiet_libraries

if TYPE_CHECKING:
    from PIL.Image import Image

    from headmap.head_scores import HeadScores
    from headmap.models import ModelInfo
    from headmap.settings import Settings


def _share(ratio: float | None) -> float | None:
    if ratio is not None and 1 < ratio <= 100:
        raise typer.BadParameter(f"{ratio:g} is above 1; a ratio is a share: {ratio / 100:g} for {ratio:g} %")
    if ratio is not None and not 0 < ratio <= 1:
        raise typer.BadParameter(f"{ratio:g} is not above 0 and at most 1; a ratio is a share: 0.2 for 20 %")
    return ratio


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
            help="full, sparsemm, snapkv, pyramidkv, adakv or random. [default: sparsemm with a budget, else full]"
        ),
    ] = None,
    budget: Annotated[int | None, typer.Option(min=1, help="Tokens to keep per KV head, on average.")] = None,
    ratio: Annotated[
        float | None, typer.Option(callback=_share, help="Share of the prompt to keep: 0.2 for 20 %.")
    ] = None,
    map_name: Annotated[
        str | None, typer.Option("--map", help="Id or alias of a map. [default: the alias `default`]")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of the answer.")] = 128,
    data_dir: DataDir = None,
) -> None:
    """Ask a model about pictures, and print the answer as it comes.

    \b
    Example:
      headmap generate headmap/demo-ocr --image page.png --ratio 0.2 "What is the value of BXP?"
    """
    from headmap.errors import EmptyPrompt
    from headmap.kvcache.plan import KVRequest
    from headmap.kvcache.planning import check_request

    info, settings = find_named_model(model, data_dir)
    if not question.strip():
        raise EmptyPrompt("question: is empty")
    chosen = method or ("full" if budget is None and ratio is None else "sparsemm")
    check_request(KVRequest(chosen, budget=budget, ratio=ratio))  # refuse before anything is loaded
    if map_name is not None and chosen != "sparsemm":
        fail(f"--map: method {chosen!r} reads no map, got {map_name!r}", code=2)
    scores, told = None, ""
    if chosen == "sparsemm":
        scores, told = _scores(settings, info, map_name)
        if scores is None and settings.no_map_policy == "error":
            fail(f"{model} has no map; make one with: headmap score {model}")
        chosen = chosen if scores is not None else "snapkv"
    _answer(
        info, settings, question, image, KVRequest(chosen, budget=budget, ratio=ratio), scores, told, max_new_tokens
    )


def _scores(settings: Settings, info: ModelInfo, name: str | None) -> tuple[HeadScores | None, str]:
    """The map's scores and a note on the map. The scores are None if no map was named and the model has none."""
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
                return None, "no map yet, so every head keeps the same"
            note = f"map {record.id}" + ("" if match == "exact" else " of another revision")
            return get_scores(session, record.id), note
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
    kv: object,
    scores: HeadScores | None,
    told: str,
    max_new_tokens: int,
) -> None:
    quiet_libraries()
    import queue

    from headmap.engine.engine import Engine
    from headmap.engine.messages import EngineRequest, Event, Failed, Finished, Token
    from headmap.engine.sampling.params import SamplingParams
    from headmap.families.loading import load_model
    from headmap.kvcache.plan import KVRequest

    images = _read(paths, settings)
    if not isinstance(kv, KVRequest):
        raise TypeError("kv must be a KVRequest")
    with console(stderr=True).status(f"Loading {info.name}"):
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
                typer.echo(event.text, nl=False)
            elif isinstance(event, Failed):
                raise event.error
            elif isinstance(event, Finished):
                typer.echo(event.tail)
                break
    finally:
        engine.stop(0)
    share = 100 * event.kept_tokens / event.full_tokens
    note = f", {told}" if told else ""
    console(stderr=True).print(
        f"{kv.method}: kept {event.kept_tokens} of {event.full_tokens} tokens ({share:.1f} %), "
        f"{event.kv_bytes} of {event.kv_full_bytes} bytes{note}",
        style="dim",
    )
