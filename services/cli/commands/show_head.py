"""`headmap show-head`: one page with where one head looked for each word it hit."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.commands.maps import MapId, picture_form
from services.cli.common import DataDir, json_option, load_settings, one_line_errors, open_registry, print_json

if TYPE_CHECKING:
    from headmap.pictures.drawing import PictureForm


@one_line_errors
def show_head(
    map_id: MapId,
    layer: Annotated[int, typer.Argument(min=0, help="Layer, from 0.")],
    head: Annotated[int, typer.Argument(min=0, help="Query head of the layer, from 0.")],
    page: Annotated[int, typer.Option(min=0, help="Page, one of the first of the profile, from 0.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="File to write, .png or .svg. [default: in overlays/ of the data directory]")
    ] = None,
    as_json: Annotated[
        bool, json_option("map_id", "layer", "head", "page", "width", "height", "hits", "words", "looks")
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Draw a page with the places where one head looked, or print them as JSON.

    \b
    Example:
      headmap show-head d7d7 2 5 --page 1
    """
    from headmap.pictures.overlay import Caption, draw_overlay
    from headmap.registry.looks import get_looks
    from headmap.registry.maps import check_head, get_map
    from services.cli.registry.local import whole_id

    form: PictureForm = "png" if out is None else picture_form(out)
    with open_registry(data_dir) as database, database.read() as session:
        record = get_map(session, whole_id(session, map_id))
        check_head(record, layer, head)
        looks = get_looks(session, record.id, page)
    found = looks.of_head(layer, head)
    if as_json:
        words = [{"text": text, "box": box} for text, box in looks.words]
        told = {"map_id": record.id, "layer": layer, "head": head, "page": page}
        size = {"width": looks.width, "height": looks.height, "hits": sum(look.hit for look in found)}
        print_json({**told, **size, "words": words, "looks": [asdict(look) for look in found]})
        if out is None:
            return
    out = out or load_settings(data_dir).data_dir / "overlays" / f"{record.id}-{layer}-{head}-page-{page}.png"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(draw_overlay(looks, Caption(record.model, record.version, layer, head, page), form))
    if not as_json:
        typer.echo(str(out))
