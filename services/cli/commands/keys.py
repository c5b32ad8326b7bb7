"""`headmap keys`: who may call. The registry keeps digests; a key is shown once, when it is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.common import DataDir, console, fail, json_option, one_line_errors, open_registry, print_json

if TYPE_CHECKING:
    from headmap.keys import ApiKey, Scope

app = typer.Typer(help="Create, list and revoke API keys.", no_args_is_help=True)

_FIELDS = ("id", "name", "scopes", "requests_per_minute", "concurrent_requests", "created_at", "revoked_at")


@app.command("create")
@one_line_errors
def create(
    name: Annotated[str, typer.Argument(help="Name of the caller, shown in the log.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(help="infer, score, or admin, which includes both; may be repeated. [default: infer and score]"),
    ] = None,
    requests_per_minute: Annotated[
        int | None, typer.Option(min=1, help="Most requests per minute. [default: HEADMAP_KEY_REQUESTS_PER_MINUTE]")
    ] = None,
    concurrent_requests: Annotated[
        int | None, typer.Option(min=1, help="Most requests at a time. [default: HEADMAP_KEY_CONCURRENT_REQUESTS]")
    ] = None,
    as_json: Annotated[bool, json_option("key", *_FIELDS)] = False,
    data_dir: DataDir = None,
) -> None:
    """Create a key and print it. It is never shown again. Once a first key exists, calls need a key.

    \b
    Example:
      headmap keys create nightly-batch --requests-per-minute 60
    """
    from headmap.registry.keys import create_key

    scopes = _scopes(scope)
    with open_registry(data_dir) as database, database.write() as session:
        record, key = create_key(
            session,
            name,
            scopes=scopes,
            requests_per_minute=requests_per_minute,
            concurrent_requests=concurrent_requests,
        )
    if as_json:
        print_json({"key": key, **_told(record)})
        return
    typer.echo(key)
    may = ", ".join(_told(record)["scopes"])
    typer.echo(f"key {record.name!r}, id {record.id}, may {may}; it is not kept and cannot be shown again", err=True)


@app.command("list")
@one_line_errors
def list_(
    as_json: Annotated[bool, json_option(*_FIELDS, many=True)] = False,
    data_dir: DataDir = None,
) -> None:
    """List all keys, revoked keys too, oldest first.

    \b
    Example:
      headmap keys list
    """
    from headmap.registry.keys import read_keys

    with open_registry(data_dir) as database:
        found = read_keys(database)
    if as_json:
        print_json([_told(key) for key in found])
        return
    from rich.table import Table

    table = Table("id", "name", "may", "a minute", "at a time", "made", "revoked", box=None, pad_edge=False)
    for key in found:
        times = (f"{time:%Y-%m-%d %H:%M}" if time else "-" for time in (key.created_at, key.revoked_at))
        limits = (str(limit or "-") for limit in (key.requests_per_minute, key.concurrent_requests))
        table.add_row(key.id, key.name, ", ".join(sorted(key.scopes)), *limits, *times)
    console().print(table if found else "no keys yet; `headmap keys create NAME` makes one")


@app.command("revoke")
@one_line_errors
def revoke(
    name: Annotated[str, typer.Argument(help="Name or id of the key.")],
    as_json: Annotated[bool, json_option(*_FIELDS)] = False,
    data_dir: DataDir = None,
) -> None:
    """Revoke a key. Running servers refuse it within HEADMAP_KEY_REFRESH_SECONDS.

    \b
    Example:
      headmap keys revoke nightly-batch
    """
    from headmap.registry.keys import revoke_key

    with open_registry(data_dir) as database, database.write() as session:
        record = revoke_key(session, name)
    if as_json:
        print_json(_told(record))
    else:
        typer.echo(f"revoked {record.name!r}, id {record.id}")


def _told(key: ApiKey) -> dict[str, Any]:
    return {field: getattr(key, field) for field in _FIELDS} | {"scopes": sorted(key.scopes)}


def _scopes(names: list[str] | None) -> frozenset[Scope]:
    """Ends the command where a name is no scope."""
    from headmap.keys import DAILY_WORK, scopes_of

    try:
        return DAILY_WORK if names is None else scopes_of(names)
    except ValueError as error:
        fail(f"--scope: {error}", code=2)
