"""The reference of docs/command-line.md: `python -m services.cli.commands_reference` rewrites it from the commands."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from services.cli.generated import rewrite, with_part
from services.cli.main import app

Words = tuple[str, ...]


def commands(group: Any = None, path: Words = ()) -> Iterator[tuple[Words, Any]]:
    """Each command with the words that name it, `("maps", "list")`, in the order of the help."""
    root: Any = get_command(app)
    for name, command in (group or root).commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


def example(command: Any) -> str:
    """The line that the command's help shows, in as many lines as there."""
    return "\n".join(line[2:] for line in command.help.split("Example:\n")[1].splitlines())


def reference() -> str:
    """All commands as Markdown."""
    return "\n\n".join(_section(path, command) for path, command in commands())


def with_reference(text: str) -> str:
    """The document with the reference in it."""
    return with_part(text, "commands", f"\n{reference()}\n")


def _section(path: Words, command: Any) -> str:
    said = command.help.split("\b\nExample:\n")[0].strip()
    shown = "\n".join(f"    {line}" for line in example(command).splitlines())
    rows = [_row(one) for one in command.params if one.name != "data_dir"]
    table = "\n".join(("| argument or option | what it does |", "|---|---|", *rows))
    return "\n\n".join((f"### headmap {' '.join(path)}", said, shown, *([table] if rows else [])))


def _row(param: Any) -> str:
    argument = not param.opts[0].startswith("-")
    names = param.name.upper() if argument else ", ".join(param.opts)
    said, _, told = param.help.removesuffix("]").partition(" [default: ")
    default = told or (
        "" if param.required or param.default is None or param.default is False else f"`{param.default}`"
    )
    needed = "needed" if param.required and not argument else ""
    notes = "; ".join(note for note in (needed, _bounds(param), default and f"default {default}") if note)
    return f"| `{names}` | {said.replace('|', chr(92) + '|')}{f' ({notes})' if notes else ''} |"


def _bounds(param: Any) -> str:
    kind = getattr(param, "type", param)  # where older typers keep them
    low, high = getattr(kind, "min", None), getattr(kind, "max", None)
    if low is None and high is None:
        return ""
    return f"at least {low:,}" if high is None else f"{low:,} to {high:,}"


if __name__ == "__main__":
    rewrite("docs/command-line.md", with_reference)
