"""`headmap policies`: named ways to keep a model's cache, which requests name as MODEL@NAME."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.common import (
    DataDir,
    console,
    fail,
    json_option,
    one_line_errors,
    print_json,
    share_of_prompt,
)
from services.cli.registry import registry
from services.cli.selectors import parse_selector

if TYPE_CHECKING:
    from headmap.registry.policies import PolicyRecord

app = typer.Typer(help="Write, list and delete policies: named budgets, served as MODEL@NAME.", no_args_is_help=True)

FIELDS = ("model", "name", "version", "kv", "evaluation_id", "created_at", "created_by")

Model = Annotated[str, typer.Argument(help="Name of the model.")]
Name = Annotated[str, typer.Argument(help="Name of the policy.")]
InsteadOf = Annotated[int | None, typer.Option(help="Write only if this is the version now, so that no write is lost.")]
AsJson = Annotated[bool, json_option(*FIELDS)]
ListAsJson = Annotated[bool, json_option(*FIELDS, many=True)]


@app.command("list")
@one_line_errors
def list_(
    model: Annotated[str | None, typer.Option(help="List only this model's policies.")] = None,
    as_json: ListAsJson = False,
    data_dir: DataDir = None,
) -> None:
    """List policies, the last written first.

    \b
    Example:
      headmap policies list --model headmap/demo-ocr --json
    """
    with registry(data_dir) as found:
        records = found.policies(model)
    _print(records, as_json, "no policies yet; `headmap policies set MODEL NAME` writes one")


@app.command("set")
@one_line_errors
def set_(
    model: Model,
    name: Name,
    method: Annotated[str, typer.Option(help="full, sparsemm, snapkv, pyramidkv, adakv or random.")] = "sparsemm",
    budget: Annotated[int | None, typer.Option(min=1, help="Tokens to keep per KV head, on average.")] = None,
    ratio: Annotated[
        float | None, typer.Option(callback=share_of_prompt, help="Share of the prompt to keep: 0.2 for 20 %.")
    ] = None,
    map_name: Annotated[
        str | None, typer.Option("--map", help="Id or alias of a map. [default: what the server follows]")
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(min=0, help="Last tokens that observe, and are kept. [default: as the selector says]"),
    ] = None,
    keep_recent: Annotated[
        int | None, typer.Option(min=0, help="Last tokens that are kept. [default: those that observe]")
    ] = None,
    select: Annotated[
        str | None, typer.Option(help="Which tokens are kept: snapkv, last-query or mixkv. [default: mixkv]")
    ] = None,
    uniform: Annotated[
        float | None, typer.Option(min=0, max=1, help="Share of the budget that all heads get equally. [default: 0.1]")
    ] = None,
    allocation: Annotated[str | None, typer.Option(help="exact or paper. [default: exact]")] = None,
    instead_of: InsteadOf = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Write the next version of a policy. Running servers follow within HEADMAP_MAP_REFRESH_SECONDS.

    \b
    Example:
      headmap policies set headmap/demo-ocr documents --method sparsemm --ratio 0.2
    """
    given = {
        "method": method,
        "budget": budget,
        "ratio": ratio,
        "map": map_name,
        "window": window,
        "keep_recent": keep_recent,
        "select": select,
        "uniform": uniform,
        "allocation": allocation,
    }
    kv = _checked(given)
    with registry(data_dir) as found:
        if "map" in kv:
            kv["map"] = found.whole_id(kv["map"])
        record = found.put_policy(model, name, kv, instead_of)
    _tell(record, as_json)


@app.command("promote")
@one_line_errors
def promote(
    evaluation_id: Annotated[str, typer.Argument(metavar="EVALUATION", help="Id of an evaluation that has succeeded.")],
    name: Name,
    method: Annotated[
        str | None, typer.Option(help="Method of a measured case. [default: the recommended case]")
    ] = None,
    ratio: Annotated[float | None, typer.Option(callback=share_of_prompt, help="Ratio of that case.")] = None,
    select: Annotated[
        str | None,
        typer.Option(help="Selector of that case, by name or as JSON; needed only where several were measured."),
    ] = None,
    instead_of: InsteadOf = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Write a policy from an evaluation that is filed: what it recommends, or another case that it measured.

    \b
    Example:
      headmap policies promote 4f1d2c3b4a5968778695a4b3c2d1e0f9 documents --method sparsemm --ratio 0.2
    """
    chosen = None if select is None else parse_selector(select)
    with registry(data_dir) as found:
        record = found.promote(evaluation_id, name, instead_of, method=method, ratio=ratio, select=chosen)
    _tell(record, as_json)


@app.command("show")
@one_line_errors
def show(model: Model, name: Name, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """Show a policy.

    \b
    Example:
      headmap policies show headmap/demo-ocr documents
    """
    with registry(data_dir) as found:
        record = found.policy(model, name)
    _tell(record, as_json)


@app.command("history")
@one_line_errors
def history(model: Model, name: Name, as_json: ListAsJson = False, data_dir: DataDir = None) -> None:
    """List the versions of a policy, newest first: at most the last 200.

    \b
    Example:
      headmap policies history headmap/demo-ocr documents
    """
    with registry(data_dir) as found:
        records = found.policy_versions(model, name)
    _print(records, as_json, "")


@app.command("delete")
@one_line_errors
def delete(
    model: Model,
    name: Name,
    instead_of: InsteadOf = None,
    as_json: Annotated[bool, json_option("deleted")] = False,
    data_dir: DataDir = None,
) -> None:
    """Delete a policy. Its versions stay in the history.

    \b
    Example:
      headmap policies delete headmap/demo-ocr documents
    """
    with registry(data_dir) as found:
        found.delete_policy(model, name, instead_of)
    if as_json:
        print_json({"deleted": name})
    else:
        typer.echo(f"{name} of {model} is deleted")


def _checked(given: dict[str, Any]) -> dict[str, Any]:
    """`kv` as the services keep it; ends the command where it is wrong, naming the option."""
    from pydantic import ValidationError

    from headmap.errors import BadRequest
    from headmap.http.invalid import invalid_parameter
    from headmap.http.kv_body import KVBody
    from headmap.kvcache.planning import check_request

    if given["method"] != "full" and (given["budget"] is None) == (given["ratio"] is None):
        fail("--budget and --ratio: give one of them", code=2)
    try:
        body = KVBody.model_validate(given)
        check_request(body.asked(), body.map)
    except ValidationError as error:
        fail(f"--{invalid_parameter(error.errors(), given).detail}", code=2)
    except BadRequest as error:
        fail(error.detail.replace("kv.", "--"), code=2)
    return body.model_dump(exclude_none=True)


def _tell(record: PolicyRecord, as_json: bool) -> None:
    if as_json:
        print_json(record)
    else:
        typer.echo(f"{record.model}@{record.name} is version {record.version}: {_kv(record)}")


def _print(records: list[PolicyRecord], as_json: bool, none: str) -> None:
    if as_json:
        print_json(records)
        return
    from rich.table import Table

    table = Table("model", "policy", "version", "keeps", "written", "by", box=None, pad_edge=False)
    for one in records:
        written = f"{one.created_at:%Y-%m-%d %H:%M}"
        table.add_row(one.model, one.name, str(one.version), _kv(one), written, one.created_by or "anyone")
    console().print(table if records else none)


def _kv(record: PolicyRecord) -> str:
    if record.kv is None:
        return "deleted"
    return ", ".join(f"{name} {value}" if name != "method" else str(value) for name, value in record.kv.items())
