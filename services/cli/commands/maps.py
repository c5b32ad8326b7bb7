"""`headmap maps`: read, draw, import and export maps."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.common import DataDir, console, fail, json_option, one_line_errors, print_json
from services.cli.registry import registry

if TYPE_CHECKING:
    from headmap.pictures.drawing import PictureForm

app = typer.Typer(help="List, show, draw, compare, import and export maps; move their aliases.", no_args_is_help=True)

MapId = Annotated[str, typer.Argument(help="Id of the map, or its first digits if only one map has them.")]

MAP_FIELDS = (
    "id", "model", "version", "revision", "architecture", "kind", "num_layers", "num_heads", "num_kv_heads",
    "dataset", "dataset_checksum", "pages", "seed", "rule", "max_new_tokens", "job_id", "aliases",
    "hits", "tokens_seen", "tokens_matched", "halves_top5pct_overlap", "halves_spearman",
    "code_version", "checksum", "created_at", "tags", "notes",
    "origin_map_id", "origin_version", "origin_created_at", "origin_repo",
)  # fmt: skip
MapAsJson = Annotated[bool, json_option(*MAP_FIELDS)]
Promote = Annotated[
    bool | None,
    typer.Option(help="Serve the model with this map from now on. [default: only if nobody has chosen a map]"),
]


@app.command("list")
@one_line_errors
def list_(
    model: Annotated[str | None, typer.Option(help="List only this model's maps.")] = None,
    revision: Annotated[str | None, typer.Option(help="List only maps of this revision of a model.")] = None,
    alias: Annotated[str | None, typer.Option(help="List only maps that this alias points at.")] = None,
    tag: Annotated[
        list[str] | None, typer.Option(help="List only maps with this tag; repeated, with all of them.")
    ] = None,
    kind: Annotated[str | None, typer.Option(help="List only maps of this kind: visual or text-retrieval.")] = None,
    dataset: Annotated[str | None, typer.Option(help="List only maps of this dataset.")] = None,
    rule: Annotated[str | None, typer.Option(help="List only maps of this rule, such as aligned.")] = None,
    min_pages: Annotated[int | None, typer.Option(min=0, help="List only maps of as many pages or more.")] = None,
    text: Annotated[
        str | None, typer.Option(help="List only maps with this text in the model's name, a tag or the notes.")
    ] = None,
    order_by: Annotated[
        str, typer.Option(help="created_at, version, pages or hits, lowest first; highest first with desc.")
    ] = "created_at desc",
    as_json: Annotated[bool, json_option(*MAP_FIELDS, many=True)] = False,
    data_dir: DataDir = None,
) -> None:
    """List maps, newest first. A map is listed if all that you ask holds.

    \b
    Example:
      headmap maps list --model headmap/demo-ocr --min-pages 100 --order-by "hits desc"
    """
    from headmap.map_kinds import MAP_KINDS
    from headmap.registry.map_search import MapSearch, check_order

    if kind is not None and kind not in MAP_KINDS:
        fail(f"--kind: must be {' or '.join(MAP_KINDS)}, got {kind!r}", code=2)
    search = MapSearch(
        model=model,
        revision=revision,
        alias=alias,
        tags=tuple(tag or ()),
        kind=kind,
        dataset=dataset,
        rule=rule,
        min_pages=min_pages,
        text=text,
        order_by=check_order(order_by),
    )
    with registry(data_dir) as found:
        records = found.maps(search)
    if as_json:
        print_json(records)
        return
    from rich.table import Table

    columns = ("id", "model", "version", "kind", "pages", "rule", "aliases", "tags", "made")
    table = Table(*columns, box=None, pad_edge=False)
    for one in records:
        made = f"{one.created_at:%Y-%m-%d %H:%M}"
        names = (", ".join(one.aliases), ", ".join(one.tags))
        cells = (one.id, one.model, one.version, one.kind, one.pages, one.rule, *names, made)
        table.add_row(*("-" if cell is None else str(cell) for cell in cells))
    none = "no maps yet; `headmap score MODEL` makes one" if search == MapSearch(model=model) else "no such maps"
    console().print(table if records else none)


@app.command("show")
@one_line_errors
def show(
    map_id: MapId,
    as_json: Annotated[bool, json_option(*MAP_FIELDS, "top5pct_share", "top_heads")] = False,
    data_dir: DataDir = None,
) -> None:
    """Show a map's provenance, and its strongest heads with their 95 % confidence intervals.

    \b
    Example:
      headmap maps show d7d7
    """
    from headmap.page_sums import Z95
    from headmap.pictures.heatmap import TOP_SHARE

    with registry(data_dir) as found:
        record = found.map(map_id)
        scores, errors = found.scores(record.id), found.standard_errors(record.id)
    top: list[dict[str, Any]] = [
        {
            "layer": layer,
            "head": head,
            "score": float(scores.matrix[layer, head]),
            "standard_error": None if errors is None else float(errors[layer, head]),
        }
        for layer, head in scores.top_heads(TOP_SHARE)
    ]
    if as_json:
        print_json({**asdict(record), "top5pct_share": scores.top_share(TOP_SHARE), "top_heads": top})
        return
    out = console()
    for name, value in asdict(record).items():
        shown = ", ".join(value) if isinstance(value, tuple | list) else value
        out.print(f"{name:22} {'-' if shown in (None, '') else shown}", markup=False)
    out.print(f"{'top 5 %':22} {100 * scores.top_share(TOP_SHARE):.1f} % of the score")
    for one in top:
        doubt = "" if one["standard_error"] is None else f" +- {100 * Z95 * one['standard_error']:.1f}"
        out.print(f"{'':22} layer {one['layer']} head {one['head']}: {100 * one['score']:.1f}{doubt} %")


@app.command("draw")
@one_line_errors
def draw(
    map_id: MapId,
    out: Annotated[Path, typer.Option(help="File to write, .svg or .png.")],
    kv_heads: Annotated[
        bool, typer.Option("--kv-heads", help="Draw KV heads instead, each with the sum of its query heads.")
    ] = False,
    as_json: Annotated[bool, json_option("map_id", "file")] = False,
    data_dir: DataDir = None,
) -> None:
    """Draw a map as a heatmap: a row for each layer, a column for each head.

    \b
    Example:
      headmap maps draw d7d7 --out map.svg
    """
    from headmap.pictures.heatmap import Picture
    from headmap.pictures.heatmap import draw as draw_heatmap

    form = picture_form(out)
    with registry(data_dir) as found:
        record = found.map(map_id)
        scores = found.scores(record.id)
    picture = Picture(record.model, record.version, record.pages)
    out.write_bytes(draw_heatmap(scores, picture, form, view="kv_heads" if kv_heads else "heads"))
    if as_json:
        print_json({"map_id": record.id, "file": out})
    else:
        typer.echo(str(out))


@app.command("export")
@one_line_errors
def export(
    map_id: MapId,
    out: Annotated[Path | None, typer.Option(help="File to write. [default: standard output]")] = None,
    bare: Annotated[
        bool, typer.Option("--bare", help='Write only {"layer-head": [score]}, the public SparseMM form.')
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Write a map and all that is known about it as JSON, which `import`, POST /maps and the dashboard take.

    \b
    Example:
      headmap maps export d7d7 --out map.json
    """
    with registry(data_dir) as found:
        file = found.map_file(found.map(map_id).id)
    text = json.dumps(file.scores.to_sparsemm()) + "\n" if bare else file.text()
    if out is None:
        typer.echo(text, nl=False)
    else:
        out.write_text(text, encoding="utf-8")
        typer.echo(str(out))


@app.command("import")
@one_line_errors
def import_(
    file: Annotated[
        Path,
        typer.Argument(help="File from `maps export`, or a public SparseMM score file.", exists=True, dir_okay=False),
    ],
    model: Annotated[str | None, typer.Option(help="Model of the map; a bare score file needs it.")] = None,
    num_kv_heads: Annotated[
        int | None, typer.Option(min=1, help="KV heads of each layer; a bare score file needs it.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Revision of the model.")] = None,
    promote: Promote = None,
    as_json: MapAsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Import a map file into the registry, with everything in it.

    \b
    Example:
      headmap maps import map.json
    """
    from headmap.registry.map_file import parse_map_file

    try:
        body = json.loads(file.read_text(encoding="utf-8-sig"), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        fail(f"{file}: not JSON ({error})")
    if not isinstance(body, dict):
        fail(f"{file}: must be a JSON object")
    given = {"model": model, "num_kv_heads": num_kv_heads, "revision": revision}
    wrapped: dict[str, Any] = body if "scores" in body else {"scores": body}
    wrapped |= {name: value for name, value in given.items() if value is not None}
    if "model" not in wrapped or "num_kv_heads" not in wrapped:
        fail(f"{file}: --model and --num-kv-heads are needed, it does not say them itself", code=2)
    map_file = parse_map_file(wrapped)
    with registry(data_dir) as found:
        record = found.import_map(map_file, "auto" if promote is None else promote)
    if as_json:
        print_json(record)
    else:
        typer.echo(record.id)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON whose keys are each there once: of two scores of a head one would be lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"key {twice[:80]!a} is there twice")
    return found


def picture_form(out: Path) -> PictureForm:
    """The format that a file's name asks for. Ends the command if the format is unknown."""
    ending = out.suffix.lower()
    if ending not in (".svg", ".png"):
        fail(f"--out: must end in .svg or .png, got {out}", code=2)
    return "svg" if ending == ".svg" else "png"
