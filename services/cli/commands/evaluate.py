"""`headmap evaluate`: how small may the cache be before answers get worse, without any server."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.commands.compare import DIFFERS
from services.cli.commands.maps import picture_form
from services.cli.common import (
    DataDir,
    cluster_url,
    console,
    fail,
    find_named_model,
    json_option,
    one_line_errors,
    open_registry,
    print_json,
    quiet_libraries,
)
from services.cli.evaluation_runs import Asked, measure, measure_and_file, measure_there
from services.cli.selectors import Selectors, parse_selector

if TYPE_CHECKING:
    from rich.table import Table

    from headmap.evaluation.cases import Case
    from headmap.evaluation.curve import Curve

_REQUIREMENT = re.compile(r"\s*([\w-]+)@([\d.]+)(?:/(\S+))?\s+within\s+([\d.]+)\s*")


@dataclass(frozen=True)
class _Required:
    """`case` may lose less than `margin` against the full cache."""

    case: Case
    margin: float


@one_line_errors
def evaluate(
    model: Annotated[str, typer.Argument(help="Model: headmap/demo-ocr, a Hub id in the local cache, or a folder.")],
    dataset: Annotated[
        str,
        typer.Option(
            help="Name from `headmap datasets list`, a folder with pages.jsonl, or DocVQA, TextVQA, ChartQA or "
            "OCRBench as parquet files: a folder, or OWNER/NAME[/PART] in the Hub cache."
        ),
    ],
    map_name: Annotated[str | None, typer.Option("--map", help="Id or alias of a map. [default: default]")] = None,
    questions: Annotated[
        int | None, typer.Option(min=1, help="Questions to ask. [default: 200, or all of a smaller dataset]")
    ] = None,
    methods: Annotated[str, typer.Option(help="Methods, with commas; full is always among them.")] = (
        "full,sparsemm,snapkv"
    ),
    ratios: Annotated[str, typer.Option(help="Shares of the prompt to keep, with commas.")] = "0.05,0.1,0.2,0.4",
    select: Selectors = None,
    metric: Annotated[
        str | None,
        typer.Option(help="exact, contains, anls, relaxed, vqa, cer or wer. [default: the dataset's own, else exact]"),
    ] = None,
    margin: Annotated[float, typer.Option(help="Loss against the full cache that is still no loss.")] = 0.01,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, max=32_768, help="Most tokens of an answer. [default: the dataset's own]")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the questions' order, or of made-up pages.")] = 0,
    require: Annotated[
        list[str] | None,
        typer.Option(
            help='End with exit code 3 unless it holds: "sparsemm@0.2 within 0.01", or for one of several selectors '
            '"sparsemm@0.2/last-query within 0.01".'
        ),
    ] = None,
    save: Annotated[
        bool, typer.Option("--save", help="File the curve and all answers in the registry, for servers to show.")
    ] = False,
    cancel_on_interrupt: Annotated[
        bool, typer.Option("--cancel-on-interrupt", help="Cancel a cluster's job if you interrupt the command.")
    ] = False,
    answers: Annotated[Path | None, typer.Option(help="File (.jsonl) for every answer.")] = None,
    plot: Annotated[Path | None, typer.Option(help="File (.svg or .png) for a picture of the curve.")] = None,
    as_json: Annotated[
        bool,
        json_option(
            "evaluation_id",
            "model",
            "map_id",
            "dataset",
            "metric",
            "margin",
            "points",
            "recommended",
            "required",
            "passed",
        ),
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Ask a model questions with known answers at several cache sizes, and find the smallest that holds.

    A size holds if, with 95 % confidence, it loses less than --margin against the full cache on the same questions.
    With no loss in sight, that takes about 270 questions for a margin of 0.01, and 25 for 0.1.

    With --save an equal evaluation is not measured twice, and what you interrupt goes on where it stopped. On a
    cluster (--url), workers measure, and every evaluation is filed.

    Exit codes: 0, it was measured, and all that you required holds; 3, a requirement does not hold; 1, it could not be
    measured; 2, wrong usage.

    \b
    Example:
      headmap evaluate headmap/demo-ocr --dataset synthetic --questions 300 --plot curve.svg
    """
    from headmap.evaluation.answers import write_lines
    from headmap.evaluation.cases import DEFAULT_SELECTORS, make_cases
    from headmap.evaluation.curve import check_margin
    from headmap.evaluation.metrics import get_metric

    selectors = [parse_selector(text) for text in select] if select else None
    cases = make_cases(_words(methods), _numbers(ratios), selectors or DEFAULT_SELECTORS)
    check_margin(margin)
    required = [_requirement(text, cases) for text in require or []]
    if metric is not None:
        get_metric(metric)
    form = None if plot is None else picture_form(plot)
    if answers is not None and answers.suffix != ".jsonl":
        fail(f"--answers: must end in .jsonl, got {answers}", code=2)
    needs_map = any(case.method == "sparsemm" for case in cases)
    if map_name is not None and not needs_map:
        fail(f"--map: only sparsemm reads a map, got {map_name!r} with {methods}", code=2)
    asked = Asked(dataset, cases, selectors, map_name, questions, metric, margin, max_new_tokens, seed)
    name = model
    if (url := cluster_url(data_dir)) is not None:
        with_answers = answers is not None
        found = measure_there(url, model, asked, with_answers=with_answers, cancel_on_interrupt=cancel_on_interrupt)
    elif cancel_on_interrupt:
        fail("--cancel-on-interrupt: is for a cluster's jobs; here an interrupt stops the work", code=2)
    else:
        info, settings = find_named_model(model, data_dir)
        name = info.name
        quiet_libraries()
        with open_registry(data_dir) as database:
            found = (measure_and_file if save else measure)(database, settings, info, asked)
    curve = found.curve
    if answers is not None:
        answers.write_bytes(write_lines(found.rows))
    if plot is not None and form is not None:
        from headmap.pictures.curve import draw_curve

        plot.write_bytes(draw_curve(curve, name, dataset, form))
    held = [(one, (point := curve.point(one.case)) is not None and point.within(one.margin)) for one in required]
    passed = all(holds for _, holds in held)
    if as_json:
        print_json(
            {
                "evaluation_id": found.evaluation_id,
                "model": name,
                "map_id": found.map_id,
                "dataset": dataset,
                "metric": found.metric,
                "margin": margin,
                "points": [point.to_json() for point in curve.points],
                "recommended": curve.recommended and curve.recommended.to_json(),
                "required": [{**one.case.to_json(), "within": one.margin, "holds": holds} for one, holds in held],
                "passed": passed,
            }
        )
    else:
        _show(curve, found.metric, held)
        if found.evaluation_id is not None:
            console().print(f"filed as evaluation {found.evaluation_id}")
    if not passed:
        raise typer.Exit(DIFFERS)


def _show(curve: Curve, metric: str, held: list[tuple[_Required, bool]]) -> None:
    screen = console()
    screen.print(_table(curve))
    screen.print(f"marked by {metric} over {curve.points[0].total} questions; intervals are 95 %")
    if curve.recommended is None:
        screen.print(f"recommended: none of these is sure to lose less than {curve.margin:g}; ask more questions")
    else:
        screen.print(f"recommended: {curve.recommended}, which loses less than {curve.margin:g} with 95 % confidence")
    for one, holds in held:
        screen.print(f"{'passed' if holds else 'FAILED'}: {one.case} within {one.margin:g}")


def _table(curve: Curve) -> Table:
    from rich.table import Table

    from headmap.evaluation.cases import FULL
    from headmap.evaluation.selectors import selector_label
    from headmap.kvcache.select import DEFAULT_SELECTOR, SELECTORS

    usual = SELECTORS[DEFAULT_SELECTOR]
    by_selector = any(point.select != usual for point in curve.points if point.method != FULL)
    table = Table(box=None, pad_edge=False)
    for name in ("method", *(["select"] if by_selector else [])):
        table.add_column(name)
    for name in ("ratio", "right", "interval", "to full", "loss below", "p", "KiB kept", "ms a token"):
        table.add_column(name, justify="right")
    for point in curve.points:
        low, high = point.interval
        table.add_row(
            point.method,
            *(["-" if point.method == FULL else selector_label(point.select)] if by_selector else []),
            f"{point.ratio:g}",
            f"{100 * point.right:.1f} %",
            f"{100 * low:.1f} to {100 * high:.1f}",
            f"{100 * point.difference_to_full:+.1f}",
            f"{100 * point.loss_below:.1f}",
            "-" if point.p_value is None else f"{point.p_value:.2g}",
            f"{point.kept_bytes / 1024:,.0f}",
            "-" if point.token_ms is None else f"{point.token_ms:.1f}",
        )
    return table


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _numbers(text: str) -> list[float]:
    try:
        return [float(word) for word in _words(text)]
    except ValueError:
        fail(f"--ratios: must be numbers with commas between them, got {text!r}", code=2)


def _requirement(text: str, cases: tuple[Case, ...]) -> _Required:
    from headmap.errors import InvalidParameter
    from headmap.evaluation.cases import FULL, find_case
    from headmap.evaluation.curve import check_margin
    from headmap.evaluation.selectors import selector_label

    found = _REQUIREMENT.fullmatch(text)
    try:
        if found is None:
            raise ValueError
        method, ratio, label, margin = found[1], float(found[2]), found[3], float(found[4])
    except ValueError:
        fail(f"--require: must read like 'sparsemm@0.2 within 0.01', got {text!r}", code=2)
    check_margin(margin)
    selectors = {selector_label(case.select): case.select for case in cases if case.method != FULL}
    if label is not None and label not in selectors:
        fail(f"--require: {label!r} is none of {', '.join(selectors)}; add it with --select", code=2)
    try:
        return _Required(find_case(cases, method, ratio, None if label is None else selectors[label]), margin)
    except InvalidParameter as error:
        fail(f"--require: {error.detail}", code=2)
