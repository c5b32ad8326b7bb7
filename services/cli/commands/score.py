"""`headmap score`: profile a model on this machine or in a cluster, and file the map in the registry there."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from headmap.datasets.limits import MAX_PAGES
from headmap.map_kinds import MAP_KINDS, VISUAL, MapKind
from services.cli.commands.maps import MAP_FIELDS, Promote
from services.cli.common import (
    DataDir,
    cluster_url,
    console,
    fail,
    find_named_model,
    json_option,
    load_settings,
    one_line_errors,
    open_registry,
    print_json,
    progress_bar,
    quiet_libraries,
)
from services.cli.registry import Registry

if TYPE_CHECKING:
    from headmap.head_scores import HeadScores
    from headmap.registry.aliases import Promote as Promotion
    from headmap.registry.jobs import JobRecord
    from headmap.registry.maps import MapRecord
    from services.scoring.schemas import JobBody


@dataclass(frozen=True)
class _Wish:
    """What to profile, with the names of POST /score."""

    model: str
    kind: MapKind
    pages: int | Literal["auto"] | None
    dataset: str
    seed: int
    rule: str
    max_new_tokens: int
    min_pages: int | None
    max_pages: int | None
    stable_overlap: float | None
    force: bool
    promote: Promotion


@one_line_errors
def score(
    model: Annotated[str, typer.Argument(help="Model: headmap/demo-ocr, a Hub id in the local cache, or a folder.")],
    pages: Annotated[
        str | None,
        typer.Option(
            help="Pages to read, or auto: until the map is steady. [default: 1000, or all of a smaller dataset]"
        ),
    ] = None,
    kind: Annotated[
        str, typer.Option(help="visual: heads that look at the picture; text-retrieval: at a text in the prompt.")
    ] = VISUAL,
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
    cancel_on_interrupt: Annotated[
        bool, typer.Option("--cancel-on-interrupt", help="Cancel a cluster's job if you interrupt the command.")
    ] = False,
    as_json: Annotated[bool, json_option(*MAP_FIELDS, "top5pct_share", "heatmap")] = False,
    data_dir: DataDir = None,
) -> None:
    """Measure which attention heads look at the picture, or at a text in the prompt, and keep the map.

    If you interrupt it, the same command goes on where it stopped. With HEADMAP_URL a cluster's workers do the work,
    and go on without the command.

    \b
    Example:
      headmap score headmap/demo-ocr --pages 40
    """
    from headmap.pictures.heatmap import TOP_SHARE, Picture, draw

    if rule not in ("aligned", "paper"):
        fail(f"--rule: must be aligned or paper, got {rule!r}", code=2)
    if kind not in MAP_KINDS:
        fail(f"--kind: must be {' or '.join(MAP_KINDS)}, got {kind!r}", code=2)
    wish = _Wish(
        model=model,
        kind=kind,
        pages=_count(pages),
        dataset=dataset,
        seed=seed,
        rule=rule,
        max_new_tokens=max_new_tokens,
        min_pages=min_pages,
        max_pages=max_pages,
        stable_overlap=stable_overlap,
        force=force,
        promote="auto" if promote is None else promote,
    )
    if (url := cluster_url(data_dir)) is not None:
        record, scores = _there(wish, url, cancel_on_interrupt=cancel_on_interrupt)
    elif cancel_on_interrupt:
        fail("--cancel-on-interrupt: is for a cluster's jobs; here an interrupt stops the work", code=2)
    else:
        record, scores = _here(wish, data_dir)
    picture = load_settings(data_dir).data_dir / "heatmaps" / f"{record.id}.png"
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
    if not served and record.kind == VISUAL:
        out.print(f"not served as default; to serve it: headmap maps alias {record.id[:8]} default")


def _here(wish: _Wish, data_dir: Path | None) -> tuple[MapRecord, HeadScores]:
    from headmap.datasets.sources import find_dataset
    from headmap.jobs.local import profile_here
    from headmap.jobs.profiler import ProfilerScorer
    from headmap.registry.job_params import job_params
    from services.cli.registry.local import LocalRegistry

    info, settings = find_named_model(wish.model, data_dir)
    quiet_libraries()
    with open_registry(data_dir) as database:
        maps = LocalRegistry(database, data_dir)
        name = name_dataset(wish.dataset, maps)
        known = find_dataset(name, database)
        count, most = known.fit(wish.pages, wish.max_pages)
        params = job_params(
            pages=count,
            min_pages=wish.min_pages,
            max_pages=most,
            stable_overlap=wish.stable_overlap,
            map_kind=wish.kind,
            dataset=name,
            rule=wish.rule,
            seed=wish.seed,
            max_new_tokens=wish.max_new_tokens,
            dataset_checksum=known.checksum,
            promote=wish.promote,
        )
        with progress_bar("pages") as bar:
            task = bar.add_task(f"Profiling {info.name}", total=params.pages)
            job = profile_here(
                database,
                settings,
                info,
                params,
                ProfilerScorer(settings),
                force=wish.force,
                on_progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
        return _map_of(job, maps)


def _there(wish: _Wish, url: str, *, cancel_on_interrupt: bool) -> tuple[MapRecord, HeadScores]:
    from services.cli.registry.remote import RemoteRegistry
    from services.cli.remote.calls import start_job
    from services.cli.remote.client import open_client
    from services.cli.remote.watching import watch_job
    from services.scoring.schemas import JobBody

    with open_client(url) as client:
        maps = RemoteRegistry(client)
        body = asdict(wish) | {"dataset": name_dataset(wish.dataset, maps)}
        job = start_job(client, {name: value for name, value in body.items() if value is not None}, JobBody)
        again = "the same command without --force" if wish.force else "the same command"
        title = f"Profiling {wish.model}"
        job = watch_job(
            client, job, noun="job", unit="pages", title=title, again=again, cancel_on_interrupt=cancel_on_interrupt
        )
        return _map_of(job, maps)


def _map_of(job: JobRecord | JobBody, maps: Registry) -> tuple[MapRecord, HeadScores]:
    """The map that an ended job made. Ends the command if it made none."""
    if job.map_id is None:
        fail(job.error or f"job {job.id} was {job.state.value}")
    return maps.map(job.map_id), maps.scores(job.map_id)


def _count(pages: str | None) -> int | Literal["auto"] | None:
    if pages is None:
        return None
    if pages == "auto":
        return "auto"
    if not pages.isascii() or not pages.isdigit() or not 1 <= int(pages) <= MAX_PAGES:
        fail(f"--pages: must be auto, or a number from 1 to {MAX_PAGES}, got {pages!r}", code=2)
    return int(pages)


def name_dataset(dataset: str, maps: Registry) -> str:
    """The dataset's name. A folder is added to the registry, which keeps the pages of its map."""
    from headmap.datasets.records import INDEX_FILE
    from headmap.datasets.sources import BUILT_IN

    folder = Path(dataset).absolute()
    if dataset in BUILT_IN or not (folder / INDEX_FILE).is_file():
        return dataset
    return maps.add_dataset(folder.name, folder)[0].name
