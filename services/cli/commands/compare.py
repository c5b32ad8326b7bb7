"""`headmap maps diff` and `headmap maps check`: how alike two maps are, for people and for pipelines."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headmap.map_kinds import VISUAL
from services.cli.commands.maps import MapId, picture_form
from services.cli.common import DataDir, console, json_option, one_line_errors, print_json
from services.cli.registry import Registry, registry

if TYPE_CHECKING:
    from headmap.registry.maps import MapRecord

DIFFERS = 3
"""Exit code of `check` for maps that are too different; 1 and 2 are errors, as everywhere."""

_CHANGES_SHOWN = 10
_ALIKE = (
    "spearman", "pearson", "top5pct_overlap", "top5pct_by_chance", "top10pct_overlap", "top10pct_by_chance",
    "total_variation",
)  # fmt: skip


@one_line_errors
def diff(
    map_id: MapId,
    other: Annotated[str, typer.Argument(help="Map to compare with: an id, its first digits, or an alias.")],
    out: Annotated[Path | None, typer.Option(help="File (.svg or .png) for a picture of both maps.")] = None,
    as_json: Annotated[bool, json_option("a", "b", *_ALIKE, "changes")] = False,
    data_dir: DataDir = None,
) -> None:
    """Compare two maps: correlation, heads in common and how many chance would give, the heads that changed most.

    \b
    Example:
      headmap maps diff d7d7 stable --out changes.svg
    """
    from headmap.head_scores import compare
    from headmap.pictures.scatter import MapName, draw_scatter

    form = None if out is None else picture_form(out)
    with registry(data_dir) as found:
        first, second = _both(found, map_id, other)
        ours, theirs = found.scores(first.id), found.scores(second.id)
    alike = compare(ours, theirs)
    change = theirs.matrix - ours.matrix
    order = sorted(ours.ranked(), key=lambda place: -abs(change[place]))[:_CHANGES_SHOWN]
    changes = [
        {"layer": la, "head": h, "before": float(ours.matrix[la, h]), "after": float(theirs.matrix[la, h])}
        for la, h in order
        if change[la, h]
    ]
    if out is not None and form is not None:
        names = MapName(first.model, first.version), MapName(second.model, second.version)
        out.write_bytes(draw_scatter(ours, theirs, names, form))
    if as_json:
        print_json({"a": first.id, "b": second.id, **asdict(alike), "changes": changes})
        return
    screen = console()
    screen.print(f"a                     {_named(first)}", markup=False)
    screen.print(f"b                     {_named(second)}", markup=False)
    screen.print(f"rank correlation      {alike.spearman:.3f}")
    screen.print(f"correlation           {alike.pearson:.3f}")
    for share, overlap, chance in (
        (5, alike.top5pct_overlap, alike.top5pct_by_chance),
        (10, alike.top10pct_overlap, alike.top10pct_by_chance),
    ):
        screen.print(f"{f'top {share} % in common':22}{100 * overlap:.0f} % ({100 * chance:.0f} % by chance)")
    screen.print(f"score that moved      {100 * alike.total_variation:.1f} %")
    for one in changes:
        screen.print(f"{'':22}{one['layer']}-{one['head']}: {100 * one['before']:.2f} -> {100 * one['after']:.2f} %")
    if out is not None:
        screen.print(f"scatter               {out}", markup=False)


@one_line_errors
def check(
    map_id: MapId,
    against: Annotated[
        str, typer.Option(help="Map to compare with: an alias of the same model, an id, or its first digits.")
    ] = "stable",
    min_overlap: Annotated[
        float, typer.Option(min=0, max=1, help="Least share of the top 5 % of heads in common.")
    ] = 0.8,
    min_spearman: Annotated[
        float | None, typer.Option(min=-1, max=1, help="Least rank correlation; not checked by default.")
    ] = None,
    as_json: Annotated[bool, json_option("map", "against", "passed", *_ALIKE, "min_overlap", "min_spearman")] = False,
    data_dir: DataDir = None,
) -> None:
    """Check how alike two maps are, for use in pipelines.

    Exit codes: 0, the maps are as alike as you asked; 3, they are less alike; 1, they could not be compared (no such
    map, other shapes, the registry is away); 2, wrong usage.

    \b
    Example:
      headmap maps check d7d7 --against stable --min-overlap 0.8
    """
    from headmap.head_scores import compare

    with registry(data_dir) as maps:
        found, reference = _both(maps, map_id, against)
        alike = compare(maps.scores(found.id), maps.scores(reference.id))
    passed = alike.top5pct_overlap >= min_overlap and (min_spearman is None or alike.spearman >= min_spearman)
    asked: dict[str, Any] = {"min_overlap": min_overlap, "min_spearman": min_spearman}
    if as_json:
        print_json({"map": found.id, "against": reference.id, "passed": passed, **asdict(alike), **asked})
    else:
        at_least = "" if min_spearman is None else f" (at least {min_spearman:.2f})"
        typer.echo(
            f"{'passed' if passed else 'FAILED'}: {_named(found)} against {_named(reference)}: "
            f"{100 * alike.top5pct_overlap:.0f} % of the top 5 % in common (at least {100 * min_overlap:.0f} %), "
            f"rank correlation {alike.spearman:.2f}{at_least}"
        )
    if not passed:
        raise typer.Exit(DIFFERS)


def _both(maps: Registry, map_id: str, other: str) -> tuple[MapRecord, MapRecord]:
    """A map, and another by an alias of its model, an id or an id's first digits. Raises MapNotFound."""
    from headmap.errors import MapNotFound

    first = maps.map(map_id)
    try:
        return first, maps.find_map(first.model, other)
    except MapNotFound as error:
        try:
            return first, maps.map(other)
        except MapNotFound:
            raise error from None


def _named(record: MapRecord) -> str:
    kind = "" if record.kind == VISUAL else f", {record.kind}"
    return f"{record.id[:12]} (version {record.version} of {record.model}{kind})"
