"""Watching a cluster's job with a progress bar, until it ends or the user interrupts."""

from __future__ import annotations

from services.cli.common import fail, progress_bar
from services.cli.remote import calls
from services.cli.remote.calls import AnyJob
from services.cli.remote.client import Client


def watch_job(
    client: Client, job: AnyJob, *, noun: str, unit: str, title: str, again: str, cancel_on_interrupt: bool
) -> AnyJob:
    """Return the job once it has ended. An interrupt ends the command, and the job only if `cancel_on_interrupt`.

    `noun`: what messages call the job. `again`: the command that follows it again.
    """
    latest = job
    try:
        with progress_bar(unit) as bar:
            task = bar.add_task(title, total=job.progress.total)
            for latest in calls.follow_job(client, job):
                bar.update(task, completed=latest.progress.done, total=latest.progress.total)
    except KeyboardInterrupt:
        if cancel_on_interrupt:
            calls.cancel_job(client, latest)
            fail(f"interrupted; {noun} {job.id} is cancelled", code=130)
        fail(f"interrupted; {noun} {job.id} goes on at {client.url}, and {again} follows it", code=130)
    return latest
