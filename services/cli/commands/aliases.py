"""`headmap maps alias`, `history`, `note` and `delete`: what changes about maps, which never change themselves."""

from __future__ import annotations

from typing import Annotated

import typer

from services.cli.commands.maps import MapAsJson, MapId, whoever, whole_id
from services.cli.common import DataDir, console, fail, json_option, one_line_errors, open_registry, print_json

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
    from headmap.registry.aliases import MAX_ALIAS, is_alias, remove
    from headmap.registry.maps import get_map, set_alias

    if not is_alias(name):
        fail(
            f"NAME: {name!r} is no alias: at most {MAX_ALIAS} of letters, digits and ._-, a letter or digit first",
            code=2,
        )
    with open_registry(data_dir) as database, database.write() as session:
        expected = None if instead_of is None else frozenset([whole_id(session, instead_of)])
        record = get_map(session, whole_id(session, map_id))
        if delete:
            remove(session, record.model, name, record.id, by=whoever(), expected=expected)
            record = get_map(session, record.id)
        else:
            record = set_alias(session, record.id, name, by=whoever(), expected=expected)
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
    from headmap.registry.aliases import history as moves_of

    with open_registry(data_dir) as database, database.read() as session:
        moves = moves_of(session, model, alias=alias, limit=200).items
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
    from headmap.registry.maps import annotate_map

    values = {name: value for name, value in (("tags", tag), ("notes", notes)) if value is not None}
    if not values:
        fail("--tag or --notes: one of them is needed", code=2)
    with open_registry(data_dir) as database, database.write() as session:
        record = annotate_map(session, whole_id(session, map_id), values)
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
    from headmap.registry.maps import delete_map

    with open_registry(data_dir) as database, database.write() as session:
        found = whole_id(session, map_id)
        delete_map(session, found)
    if as_json:
        print_json({"deleted": found})
    else:
        typer.echo(f"{found} is deleted")
