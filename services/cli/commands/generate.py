"""`headmap generate`: ask about pictures, here or in a cluster, and see how much of the cache was kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.common import (
    DataDir,
    cluster_url,
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

_KV_FIELDS = ("method", "map_id", "kept_tokens", "full_tokens", "bytes", "full_bytes")


@dataclass(frozen=True)
class _Answer:
    """`kv` is what the answer kept, as `--json` prints it; `note` says which map it was kept by."""

    model: str
    generated_text: str
    finish_reason: str
    generated_tokens: int
    kv: dict[str, Any]
    note: str


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
        str | None, typer.Option(help="Which tokens are kept: snapkv, last-query or mixkv. [default: mixkv]")
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
    from headmap.kvcache.select import get_selector

    if not question.strip():
        raise EmptyPrompt("question: is empty")
    chosen = method or ("full" if budget is None and ratio is None else "sparsemm")
    if budget is not None and ratio is not None:
        fail("--budget and --ratio: give one of them", code=2)
    if chosen not in METHODS:
        fail(f"--method: {chosen!r} is none of {', '.join(METHODS)}", code=2)
    kv = KVRequest(chosen, budget=budget, ratio=ratio, select=None if select is None else get_selector(select))
    check_request(kv)  # refuse before anything is loaded
    if map_name is not None and chosen != "sparsemm":
        fail(f"--map: only sparsemm reads a map, got {map_name!r} with {chosen}; give a --budget or --ratio", code=2)
    say: Callable[[str], None] = (lambda text: None) if as_json else (lambda text: typer.echo(text, nl=False))
    if (url := cluster_url(data_dir)) is None:
        answer = _here(model, data_dir, question, image, kv, map_name, max_new_tokens, say)
    else:
        # Without options the cluster decides, or the policy of MODEL@POLICY.
        asked = (
            None
            if method is None and chosen == "full"
            else {"method": chosen, "budget": budget, "ratio": ratio, "select": select, "map": map_name}
        )
        answer = _there(url, model, question, image, asked, max_new_tokens, say)
    if as_json:
        print_json({name: value for name, value in vars(answer).items() if name != "note"})
        return
    typer.echo()
    told = answer.kv
    share = 100 * told["kept_tokens"] / told["full_tokens"]
    console(stderr=True).print(
        f"{told['method']}: kept {told['kept_tokens']} of {told['full_tokens']} tokens ({share:.1f} %), "
        f"{told['bytes']} of {told['full_bytes']} bytes{answer.note}",
        style="dim",
    )


def _here(
    model: str,
    data_dir: Path | None,
    question: str,
    image: list[Path],
    kv: KVRequest,
    map_name: str | None,
    max_new_tokens: int,
    say: Callable[[str], None],
) -> _Answer:
    info, settings = find_named_model(model, data_dir)
    found = find_map_scores(settings, info, map_name) if kv.method == "sparsemm" else None
    match = found and found[1]
    if kv.method == "sparsemm" and found is None:
        if settings.no_map_policy == "error":
            fail(f"{model} has no map; make one with: headmap score {model}")
        kv, match = replace(kv, method="snapkv"), "none"
    end = _answer(info, settings, question, image, kv, found and found[2], max_new_tokens, say)
    told = {
        "method": kv.method,
        "map_id": found and found[0].id,
        "kept_tokens": end.kept_tokens,
        "full_tokens": end.full_tokens,
        "bytes": end.kv_bytes,
        "full_bytes": end.kv_full_bytes,
    }
    return _Answer(info.name, end.generated_text, end.finish_reason, len(end.token_ids), told, _note(told, match))


def _there(
    url: str,
    model: str,
    question: str,
    image: list[Path],
    kv: dict[str, Any] | None,
    max_new_tokens: int,
    say: Callable[[str], None],
) -> _Answer:
    from services.cli.remote.calls import generate as generate_there
    from services.cli.remote.client import open_client

    asked = {name: value for name, value in (kv or {}).items() if value is not None}
    parameters = {"max_new_tokens": max_new_tokens, **({"kv": asked} if asked else {})}
    body = {"model": model, "inputs": question, "parameters": parameters}
    with open_client(url) as client:
        end = generate_there(client, body, image, say)
    details = end.details
    told = {name: getattr(details.kv, name) for name in _KV_FIELDS}
    note = _note(told, details.kv.map_match)
    return _Answer(end.model, end.generated_text, details.finish_reason, details.generated_tokens, told, note)


def _note(kv: dict[str, Any], match: str | None) -> str:
    """Which map the answer was kept by. `match`: exact, revision or none; None for methods without a map."""
    if match == "none":
        return ", no map yet, so every head keeps the same"
    if kv["map_id"] is None:
        return ""
    return f", map {kv['map_id']}{'' if match == 'exact' else ' of another revision'}"


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
