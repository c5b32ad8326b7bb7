"""What commands share: settings with the command line's options in them, errors as one line, progress bars."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, ParamSpec, TypeVar

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from headmap.models import ModelInfo
    from headmap.registry.session import Database
    from headmap.settings import Settings

P = ParamSpec("P")
R = TypeVar("R")

DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", help="Folder for everything that Headmap writes. [default: headmap-data]", show_default=False
    ),
]


_cluster: ContextVar[str | None] = ContextVar("cluster", default=None)
URL = "HEADMAP_URL"
Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        envvar=URL,
        show_envvar=False,
        help="Work on the cluster at this address, with the API key in HEADMAP_KEY or in the file HEADMAP_KEY_FILE.",
    ),
]


def json_option(*keys: str, many: bool = False) -> Any:
    """`--json`: standard output carries one JSON object with these keys, or a list of `many`, and nothing else."""
    shape = "a list, each item" if many else "an object"
    told = " Also: ".join(f"{', '.join(keys[first : first + 20])}." for first in range(0, len(keys), 20))
    return typer.Option("--json", help=f"Print JSON alone: {shape} with {told}")


def print_json(value: Any) -> None:
    """`value` on standard output; dataclasses as objects, times in ISO 8601, folders and files as their paths."""
    typer.echo(json.dumps(value, default=_plain, indent=2))


def _plain(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def one_line_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Ends a command that fails in a known way with one line on standard error: 2 for wrong usage, else exit code 1."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        from headmap.errors import EmptyPrompt, HeadmapError, InvalidParameter, UnknownMethod

        try:
            return command(*args, **kwargs)
        except (EmptyPrompt, InvalidParameter, UnknownMethod) as error:
            fail(error.detail, code=2)
        except HeadmapError as error:
            fail(error.detail)
        except BrokenPipeError:
            sys.stderr.close()  # the reader went away: nobody to tell, and Python must not try
            raise typer.Exit(1) from None
        except OSError as error:
            fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        except KeyboardInterrupt:
            fail("interrupted", code=130)

    return wrapped


def fail(message: str, code: int = 1) -> NoReturn:
    """Say `message` in one line on standard error, and exit."""
    typer.echo(f"headmap: {' '.join(message.split())}", err=True)
    raise typer.Exit(code)


def cluster_url(data_dir: Path | None = None) -> str | None:
    """The address of the cluster to work on, as it was given; None for this machine.

    Ends the command with exit code 2 if a `data_dir` was given too: the data is either there or here.
    """
    url = _cluster.get()
    if url is not None and data_dir is not None:
        fail(f"--data-dir: the data is in the cluster that --url or {URL} names; leave out one of them", code=2)
    return url


def work_on(url: str | None) -> None:
    """Let the command work on the cluster at this address; on this machine where it is blank or None."""
    _cluster.set((url or "").strip() or None)


def refuse_cluster() -> None:
    """End the command with exit code 2 if it is to work on a cluster, for what has no call over HTTP."""
    if cluster_url() is not None:
        fail(f"this command works only where its data is, not over HTTP; leave out --url and unset {URL}", code=2)


def load_settings(data_dir: Path | None = None, models: list[str] | None = None) -> Settings:
    """HEADMAP_* settings; options of the command line win. Wrong settings end the command with exit code 2."""
    from headmap.settings import load_settings as load

    given: dict[str, Any] = {}
    if data_dir is not None:
        given["data_dir"] = data_dir
    if models:
        given["models"] = tuple(models)
    settings = load(**given)
    if settings.data_dir.exists() and not settings.data_dir.is_dir():
        fail(f"--data-dir: {settings.data_dir} is a file; it must be a folder, or not there yet", code=2)
    return settings


@contextmanager
def open_registry(data_dir: Path | None) -> Iterator[Database]:
    """The registry of the settings. Raises RegistryUnavailable for one that is away, older or newer than this code.

    Ends a command that is to work on a cluster; `services.cli.registry` has what works on both.
    """
    from headmap.registry.bundled import use_registry
    from headmap.registry.session import open_database

    refuse_cluster()
    settings = load_settings(data_dir)
    use_registry(settings)
    database = open_database(settings, connections=1)
    try:
        yield database
    finally:
        database.close()


def find_named_model(model: str, data_dir: Path | None) -> tuple[ModelInfo, Settings]:
    """A folder or Hub id named on the command line, and settings under which it may be loaded here.

    Raises ModelNotFound and UnsupportedModel.
    """
    from headmap.models import find_model

    refuse_cluster()
    settings = load_settings(data_dir)
    widened = settings.model_copy(update={"models": tuple(dict.fromkeys((model, *settings.models)))})
    return find_model(model, widened), widened


def console(*, stderr: bool = False) -> Console:
    """Wraps no lines unless it is a terminal."""
    from rich.console import Console

    out = Console(stderr=stderr, highlight=False, soft_wrap=True)
    return out if out.is_terminal else Console(stderr=stderr, highlight=False, soft_wrap=True, width=400)


def share_of_prompt(ratio: float | None) -> float | None:
    """The callback of `--ratio`. Raises BadParameter for what is no share."""
    if ratio is not None and 1 < ratio <= 100:
        raise typer.BadParameter(f"{ratio:g} is above 1; a ratio is a share: {ratio / 100:g} for {ratio:g} %")
    if ratio is not None and not 0 < ratio <= 1:
        raise typer.BadParameter(f"{ratio:g} is not above 0 and at most 1; a ratio is a share: 0.2 for 20 %")
    return ratio


def progress_bar(unit: str, screen: Console | None = None) -> Progress:
    """A bar on standard error, with counts, the time passed and the time left. Without a terminal, a plain line.

    With a `screen` the bar disappears when it is done, and there is no bar if the screen is not a terminal.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=screen or console(stderr=True),
        transient=screen is not None,
        disable=screen is not None and not screen.is_terminal,
    )


def waiting(text: str, screen: Console) -> Progress:
    """A bar without an end, with the time passed; it goes when stopped, and there is none where that is no terminal."""
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        console=screen,
        transient=True,
        disable=not screen.is_terminal,
    )
    bar.add_task(text, total=None)
    return bar


def quiet_libraries() -> None:
    """Silence the libraries, and let threads sleep while they wait. Call it before torch is imported."""
    import os

    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
