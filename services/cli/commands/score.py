"""`headmap score`: profile a model without any server, and file the map in the registry of the data directory."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from services.cli.commands.maps import MAP_FIELDS, Promote
from services.cli.common import (
    DataDir,
    console,
    fail,
    find_named_model,
    json_option,
    one_line_errors,
    print_json,
    progress_bar,
    quiet_libraries,
)

if TYPE_CHECKING:
    from headmap.registry.session import Database
    from headmap.settings import Settings

MAX_PAGES = 100_000  # as headmap.datasets.records has it, which takes long to import


@one_line_errors
def score(
    model: Annotated[str, typer.Argument(help="Model: headmap/demo-ocr, a Hub id in the local cache, or a folder.")],
    pages: Annotated[
        str | None,
        typer.Option(
            help="Pages to read, or auto: until the map is steady. [default: 1000, or all of a smaller dataset]"
        ),
    ] = None,
    dataset: Annotated[
        str,
        typer.Option(
            help="Name from `headmap datasets list`, or a folder with pages.jsonl, which is added under its name."
        ),
    ] = "synthetic",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the pages.")] = 0,
    rule: Annotated[str, typer.Option(help="aligned, or paper for the published rule.")] = "aligned",
    max_new_tokens: Annotated[
        int, typer.Option(min=1, max=32_768, help="Most tokens to generate for each page.")
    ] = 1024,
    min_pages: Annotated[
        int | None, typer.Option(min=2, max=MAX_PAGES, help="Fewest pages with --pages auto. [default: 64]")
    ] = None,
    max_pages: Annotated[
        int | None, typer.Option(min=2, max=MAX_PAGES, help="Most pages with --pages auto. [default: 1000]")
    ] = None,
    stable_overlap: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Overlap to reach with --pages auto, between the top 5 % of both halves. [default: 0.9]"
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Profile again even if an equal profile exists.")] = False,
    promote: Promote = None,
    as_json: Annotated[bool, json_option(*MAP_FIELDS, "top5pct_share", "heatmap")] = False,
    data_dir: DataDir = None,
) -> None:
    """Measure which attention heads look at the picture, and keep the map.

    If you interrupt it, the same command goes on where it stopped.

    \b
    Example:
      headmap score headmap/demo-ocr --pages 40
    """
    from headmap.datasets.sources import find_dataset
    from headmap.jobs.local import profile_here
    from headmap.jobs.profiler import ProfilerScorer
    from headmap.pictures.heatmap import TOP_SHARE, Picture, draw
    from headmap.registry.bundled import use_registry
    from headmap.registry.jobs import job_params
    from headmap.registry.maps import get_map, get_scores
    from headmap.registry.session import open_database

    info, settings = find_named_model(model, data_dir)
    if rule not in ("aligned", "paper"):
        fail(f"--rule: must be aligned or paper, got {rule!r}", code=2)
    asked = _count(pages)
    use_registry(settings)
    quiet_libraries()
    database = open_database(settings)
    try:
        name = name_dataset(dataset, settings, database)
        known = find_dataset(name, database)
        count, most = known.fit(asked, max_pages)
        params = job_params(
            pages=count,
            min_pages=min_pages,
            max_pages=most,
            stable_overlap=stable_overlap,
            dataset=name,
            rule=rule,
            seed=seed,
            max_new_tokens=max_new_tokens,
            dataset_checksum=known.checksum,
            promote="auto" if promote is None else promote,
        )
        with progress_bar("pages") as bar:
            task = bar.add_task(f"Profiling {info.name}", total=params.pages)
            job = profile_here(
                database,
                settings,
                info,
                params,
                ProfilerScorer(settings),
                force=force,
                on_progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
        if job.map_id is None:
            fail(job.error or f"job {job.id} was {job.state.value}")
        with database.read() as session:
            record, scores = get_map(session, job.map_id), get_scores(session, job.map_id)
    finally:
        database.close()
    picture = settings.data_dir / "heatmaps" / f"{record.id}.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_bytes(draw(scores, Picture(record.model, record.version, record.pages), "png"))
    share = scores.top_share(TOP_SHARE)
    if as_json:
        print_json({**asdict(record), "top5pct_share": share, "heatmap": picture})
        return
    out = console()
    served = ", served as default" if "default" in record.aliases else ""
    out.print(f"map      {record.id}  [dim]version {record.version} of {record.model}{served}[/]")
    out.print(f"top 5 %  {100 * share:.1f} % of the score")
    if record.halves_top5pct_overlap is not None:
        out.print(
            f"halves   {100 * record.halves_top5pct_overlap:.0f} % of the top 5 % in common, "
            f"rank correlation {record.halves_spearman:.2f}; {record.pages} pages"
        )
    out.print(f"heatmap  {picture}")
    if not served:
        out.print(f"not served as default; to serve it: headmap maps alias {record.id[:8]} default")


def _count(pages: str | None) -> int | Literal["auto"] | None:
    if pages is None:
        return None
    if pages == "auto":
        return "auto"
    if not pages.isascii() or not pages.isdigit() or not 1 <= int(pages) <= MAX_PAGES:
        fail(f"--pages: must be auto, or a number from 1 to {MAX_PAGES}, got {pages!r}", code=2)
    return int(pages)


def name_dataset(dataset: str, settings: Settings, database: Database) -> str:
    """The dataset's name. A folder is checked and added to the registry, which keeps the pages of its map."""
    from headmap.datasets.checking import check_folder
    from headmap.datasets.records import INDEX_FILE
    from headmap.datasets.sources import BUILT_IN
    from headmap.datasets.uploads import check_name, file_upload

    folder = Path(dataset).absolute()
    if dataset in BUILT_IN or not (folder / INDEX_FILE).is_file():
        return dataset
    check_name(folder.name)
    return file_upload(database, folder.name, check_folder(folder, settings))[0].name
