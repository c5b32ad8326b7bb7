"""`headmap maps push` and `pull`: maps as repositories of the Hugging Face Hub."""

from __future__ import annotations

import os
from dataclasses import asdict
from types import ModuleType
from typing import Annotated

import typer

from services.cli.commands.maps import MAP_FIELDS, MapId, Promote
from services.cli.common import DataDir, fail, json_option, one_line_errors, open_registry, print_json
from services.cli.registry import registry

Repo = Annotated[str, typer.Argument(help="Repository of the Hub, as OWNER/NAME or OWNER/NAME@REVISION.")]


@one_line_errors
def push(
    map_id: MapId,
    repo: Repo,
    private: Annotated[
        bool, typer.Option("--private/--public", help="Who sees a repository that this command makes.")
    ] = True,
    as_json: Annotated[bool, json_option("repo", "revision", "commit", "url", "card", "map_id")] = False,
    data_dir: DataDir = None,
) -> None:
    """Push a map to the Hub: the map file, its checksum, and a card made from its provenance.

    HF_TOKEN is the token and HF_ENDPOINT another Hub. A revision is a branch, which is made if it is not there.

    \b
    Example:
      headmap maps push d7d7 me/qwen2-vl-head-map --public
    """
    hub = _hub()
    with registry(data_dir) as maps:
        found = maps.map(map_id).id
        file = maps.map_file(found)
    pushed = hub.push_map(file, repo, private=private)
    if as_json:
        print_json({**asdict(pushed), "map_id": found})
        return
    typer.echo(pushed.url)
    if not pushed.card:
        typer.echo(f"{pushed.repo} has a README.md of its own, which stays as it is", err=True)


@one_line_errors
def pull(
    repo: Repo,
    promote: Promote = None,
    as_json: Annotated[bool, json_option(*MAP_FIELDS, "created")] = False,
    data_dir: DataDir = None,
) -> None:
    """Pull a map from the Hub into the registry, after a look at its checksum. A map that is here already stays.

    HF_TOKEN is the token and HF_ENDPOINT another Hub.

    \b
    Example:
      headmap maps pull me/qwen2-vl-head-map@main
    """
    from headmap.registry.map_file import add_map_file, find_map_file
    from headmap.registry.maps import get_map
    from services.cli.registry.local import whoever

    file = _hub().pull_map(repo)
    with open_registry(data_dir) as database, database.write() as session:
        here = find_map_file(session, file)
        map_id = here or add_map_file(session, file, promote="auto" if promote is None else promote, by=whoever())
        record = get_map(session, map_id)
    if as_json:
        print_json({**asdict(record), "created": here is None})
    else:
        typer.echo(map_id)
        if here is not None:
            typer.echo(f"{repo} is here already, as version {record.version} of {record.model}", err=True)


def _hub() -> ModuleType:
    """The registry's `map_hub`. Ends the command where huggingface_hub is not installed."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        from huggingface_hub.utils import logging

        from headmap.registry import map_hub
    except ModuleNotFoundError as error:
        fail(f"{error.name} is not installed; `pip install 'headmap[model]'` brings it")
    logging.set_verbosity_error()
    return map_hub
