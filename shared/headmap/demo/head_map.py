"""Profile the bundled model and write its map beside its weights.

    python -m headmap.demo.head_map [--pages 400]

The map equals the map that `headmap score` makes from the same pages. It is made in a temporary registry.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from headmap.jobs.local import profile_here
from headmap.jobs.profiler import ProfilerScorer
from headmap.models import DEMO_FOLDER, DEMO_MODEL, HEAD_MAP, find_model
from headmap.registry.job_params import JobParams
from headmap.registry.map_file import read_map_file
from headmap.registry.migrations import migrate
from headmap.registry.session import open_database
from headmap.settings import Settings

MAX_NEW_TOKENS = 1024


def main(
    pages: Annotated[int, typer.Option(min=2, help="Pages to read.")] = 400,
    seed: Annotated[int, typer.Option(min=0, help="The series of pages.")] = 0,
    out: Annotated[Path, typer.Option(help="The file to write.")] = DEMO_FOLDER / HEAD_MAP,
) -> None:
    """Make the bundled model's map."""
    params = JobParams(dataset="synthetic", pages=pages, rule="aligned", seed=seed, max_new_tokens=MAX_NEW_TOKENS)
    with tempfile.TemporaryDirectory() as folder, Progress() as progress:
        settings = Settings(data_dir=Path(folder), database_url=None, models=(DEMO_MODEL,))
        migrate(settings)
        database = open_database(settings)
        task = progress.add_task("profiling", total=pages)
        job = profile_here(
            database,
            settings,
            find_model(DEMO_MODEL, settings),
            params,
            ProfilerScorer(settings),
            on_progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
        if job.map_id is None:
            raise RuntimeError(f"the profile failed: {job.error}")
        with database.read() as session:
            file = read_map_file(session, job.map_id)
        database.close()
    # The temporary registry is nobody's origin, and each package files the map with its own version.
    known = replace(file.provenance, origin_map_id=None, origin_version=None, origin_created_at=None, job_id=None)
    out.write_text(replace(file, provenance=known, code_version=None).text(), encoding="utf-8")
    print(f"{out}: {known.pages} pages, {known.hits} hits, revision {known.revision}")


if __name__ == "__main__":
    typer.run(main)
