"""`headmap score`: profile a model without any server, and file the map in the registry of the data directory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.common import (
    DataDir,
    console,
    fail,
    find_named_model,
    one_line_errors,
    progress_bar,
    quiet_libraries,
)

if TYPE_CHECKING:
    from headmap.datasets.sources import PageSource
    from headmap.models import ModelInfo
    from headmap.registry.jobs import JobParams
    from headmap.registry.repository import MapRecord
    from headmap.settings import Settings


@one_line_errors
def score(
    model: Annotated[str, typer.Argument(help="headmap/demo-ocr, a Hub id in the local cache, or a folder.")],
    pages: Annotated[int, typer.Option(min=1, max=100_000, help="Made-up pages to read.")] = 1000,
    dataset: Annotated[str, typer.Option(help="Pages to read; `headmap datasets list` names all.")] = "synthetic",
    seed: Annotated[int, typer.Option(min=0, help="The series of pages.")] = 0,
    rule: Annotated[str, typer.Option(help="aligned, or paper: the published rule.")] = "aligned",
    max_new_tokens: Annotated[int, typer.Option(min=1, max=32_768, help="The most to read of a page.")] = 1024,
    data_dir: DataDir = None,
) -> None:
    """Measure which attention heads look at the picture, and keep the map."""
    from headmap.datasets.sources import open_dataset
    from headmap.heatmap import TOP_SHARE, Picture, draw
    from headmap.registry.jobs import JobParams
    from headmap.registry.migrations import migrate
    from headmap.registry.repository import get_scores
    from headmap.registry.session import open_database

    info, settings = find_named_model(model, data_dir)
    if rule not in ("aligned", "paper"):
        fail(f"--rule: must be aligned or paper, got {rule!r}", code=2)
    source = open_dataset(dataset)
    migrate(settings)
    params = JobParams(dataset=dataset, pages=pages, rule=rule, seed=seed, max_new_tokens=max_new_tokens)
    sums = _sums(info, source, params, settings)
    database = open_database(settings)
    try:
        record = _file(database, info, params, sums)
        with database.read() as session:
            scores = get_scores(session, record.id)
    finally:
        database.close()
    picture = settings.data_dir / "heatmaps" / f"{record.id}.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_bytes(draw(scores, Picture(record.model, record.version, record.pages), "png"))
    out = console()
    out.print(
        f"map      {record.id}  [dim]version {record.version} of {record.model}, served as default from now on[/]"
    )
    out.print(f"top 5 %  {100 * scores.top_share(TOP_SHARE):.1f} % of the score")
    out.print(f"heatmap  {picture}")


class _Sums:
    """What the shards of a job add up to: added in the order and grouping of a job, so that the map is the same."""

    def __init__(self) -> None:
        self.sums: Any = 0.0
        self.squares: Any = 0.0
        self.tokens_seen = self.tokens_matched = self.hits = 0

    def add(self, result: Any) -> None:
        self.sums = self.sums + result.sums
        self.squares = self.squares + result.squares
        self.tokens_seen += result.tokens_seen
        self.tokens_matched += result.tokens_matched
        self.hits += result.hits


def _sums(info: ModelInfo, source: PageSource, params: JobParams, settings: Settings) -> _Sums:
    quiet_libraries()
    from headmap.scoring.profile import Profiler

    total = _Sums()
    with progress_bar("pages") as bar:
        task = bar.add_task(f"Loading {info.name}", total=params.pages)
        profiler = Profiler(info, device=settings.device, dtype=settings.dtype, batch=settings.scoring_batch)
        bar.update(task, description=f"Profiling {info.name}")
        for first in range(0, params.pages, settings.shard_pages):

            def on_page(done: int, first: int = first) -> None:
                bar.update(task, completed=first + done)

            total.add(
                profiler.score(
                    source.pages(params.seed, first, min(settings.shard_pages, params.pages - first)),
                    rule=params.rule,
                    max_new_tokens=params.max_new_tokens,
                    on_page=on_page,
                )
            )
    if not total.sums.any():
        read = f"{total.tokens_matched} of {total.tokens_seen} generated tokens were found on the pages"
        fail(f"no head ever looked at the word it read: every score is 0 ({read})")
    return total


def _file(database: Any, info: ModelInfo, params: JobParams, total: _Sums) -> MapRecord:
    from dataclasses import asdict

    from headmap.head_scores import HeadScores
    from headmap.jobs.fold import standard_errors
    from headmap.registry.repository import Provenance, add_map, get_map

    means = total.sums / params.pages
    provenance = Provenance(
        model=info.name,
        revision=info.revision,
        architecture=info.architecture,
        hits=total.hits,
        tokens_seen=total.tokens_seen,
        tokens_matched=total.tokens_matched,
        **asdict(params),
    )
    errors = standard_errors(total.sums, total.squares, params.pages)
    with database.write() as session:
        scores = HeadScores(means, info.num_kv_heads)
        map_id = add_map(session, provenance, scores, raw=means, standard_errors=errors, move_default=True)
        return get_map(session, map_id)
