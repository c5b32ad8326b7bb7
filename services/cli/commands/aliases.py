"""`headmap maps alias`, `history`, `note` and `delete`: what changes about maps, which never change themselves."""

from __future__ import annotations

from typing import Annotated

import typer

from services.cli.commands.maps import MapAsJson, MapId
from services.cli.common import DataDir, console, fail, json_option, one_line_errors, print_json
from services.cli.registry import registry

MOVE_FIELDS = ("alias", "map_id", "previous", "moved_by", "moved_at")

AliasName = Annotated[str, typer.Argument(help="Name of the alias; requests use `default` unless they name a map.")]


@one_line_errors
def alias(
    map_id: MapId,
    name: AliasName,
    delete: Annotated[bool, typer.Option("--delete", help="Delete the alias instead.")] = False,
    instead_of: Annotated[
        str | None, typer.Option(help="Move the alias only if it points at this map now, so that no move is lost.")
    ] = None,
    as_json: MapAsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Point an alias at a map. Running servers follow within HEADMAP_MAP_REFRESH_SECONDS.

    \b
    Example:
      headmap maps alias d7d7 stable
    """
    from headmap.registry.aliases import MAX_ALIAS, is_alias

    if not is_alias(name):
        fail(
            f"NAME: {name!r} is no alias: at most {MAX_ALIAS} of letters, digits and ._-, a letter or digit first",
            code=2,
        )
    with registry(data_dir) as found:
        expected = None if instead_of is None else found.whole_id(instead_of)
        record = found.map(map_id)
        record = found.delete_alias(record, name, expected) if delete else found.set_alias(record.id, name, expected)
    if as_json:
        print_json(record)
    elif delete:
        typer.echo(f"{name} of {record.model} is deleted")
    else:
        typer.echo(f"{name} of {record.model} is now {record.id}, version {record.version}")


@one_line_errors
def history(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    alias: Annotated[str | None, typer.Option(help="List only the moves of this alias.")] = None,
    as_json: Annotated[bool, json_option(*MOVE_FIELDS, many=True)] = False,
    data_dir: DataDir = None,
) -> None:
    """List who moved the aliases of a model, newest first: at most the last 200 moves.

    \b
    Example:
      headmap maps history headmap/demo-ocr --alias default
    """
    with registry(data_dir) as found:
        moves = found.moves(model, alias)
    if as_json:
        print_json([{name: getattr(move, name) for name in MOVE_FIELDS} for move in moves])
        return
    from rich.table import Table

    table = Table("when", "alias", "from", "to", "by", box=None, pad_edge=False)
    for move in moves:
        table.add_row(
            f"{move.moved_at:%Y-%m-%d %H:%M:%S}",
            move.alias,
            (move.previous or "-")[:8],
            (move.map_id or "deleted")[:8],
            move.moved_by or "anyone",
        )
    console().print(table if moves else "no moves")


@one_line_errors
def note(
    map_id: MapId,
    tag: Annotated[list[str] | None, typer.Option(help="Tag; may be repeated. Replaces the tags of the map.")] = None,
    notes: Annotated[str | None, typer.Option(help="Text. Replaces the notes of the map.")] = None,
    as_json: MapAsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Write tags and notes on a map.

    \b
    Example:
      headmap maps note d7d7 --tag receipts --notes "read before the summer"
    """
    values = {name: value for name, value in (("tags", tag), ("notes", notes)) if value is not None}
    if not values:
        fail("--tag or --notes: one of them is needed", code=2)
    with registry(data_dir) as found:
        record = found.annotate_map(found.map(map_id).id, values)
    if as_json:
        print_json(record)
    else:
        typer.echo(f"{record.id}  tags: {', '.join(record.tags) or '-'}  notes: {record.notes or '-'}")


@one_line_errors
def delete(
    map_id: MapId,
    as_json: Annotated[bool, json_option("deleted")] = False,
    data_dir: DataDir = None,
) -> None:
    """Delete a map that no alias points at. The same profile can then be made again.

    \b
    Example:
      headmap maps delete d7d7
    """
    with registry(data_dir) as found:
        record = found.map(map_id)
        found.delete_map(record.id)
    if as_json:
        print_json({"deleted": record.id})
    else:
        typer.echo(f"{record.id} is deleted")
