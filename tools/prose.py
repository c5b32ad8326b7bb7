"""Checks the prose of README and docs: `python -m tools.prose [FILE...]` prints FILE:LINE: message and ends with 1.

prose.toml beside this file has the rules. Code, generated blocks and figures are not prose and are skipped; tables are
read cell by cell. proselint looks at the same text with the checks that prose.toml leaves on.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
_GENERATED = re.compile(r"<!-- (\w+)[^>]*-->.*?<!-- (?:/\1|\1: end) -->", re.DOTALL)
_FENCED = re.compile(r"^( *)(```|~~~).*?^\1\2 *$", re.DOTALL | re.MULTILINE)
_COMMENT = re.compile(r"<!--.*?-->|<[a-z/][^>\n]*>", re.DOTALL)
_PICTURE = re.compile(r"!\[[^\]]*\]\([^)]*\)")
_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
_CODE = re.compile(r"(`+)[^`].*?\1", re.DOTALL)
_ITEM = re.compile(r" *(?:[-*+]|\d+\.) +")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')]*\s+(?=[\"'(`]*[A-Z0-9`])")
_WORD = re.compile(r"\S*[^\W_]\S*")


@dataclass(frozen=True)
class Rule:
    """A pattern that no sentence matches. `bad` is a sentence that does, and `good` says the same in another way."""

    say: str
    pattern: re.Pattern[str]
    bad: str
    good: str

    @property
    def is_of_sentences(self) -> bool:
        """Whether it looks at how a sentence begins; a heading is none."""
        return self.pattern.pattern.removeprefix("(?i)").startswith("^")


class Fault(NamedTuple):
    """Something to write in another way, at a line counted from 1."""

    line: int
    message: str


class Block(NamedTuple):
    """A paragraph, an item of a list, a heading or the cell of a table, and the line where it begins."""

    line: int
    text: str
    is_heading: bool = False


_VOCABULARY = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
MOST_WORDS: int = _VOCABULARY["most_words"]
RULES = tuple(
    Rule(**{**rule, "pattern": re.compile(rule["pattern"].replace(" ", r"\s+"))}) for rule in _VOCABULARY["rule"]
)


def pages() -> list[Path]:
    """The files that hold prose."""
    return [path for pattern in _VOCABULARY["files"] for path in sorted(ROOT.glob(pattern))]


def faults(text: str) -> list[Fault]:
    """What our own rules find in a Markdown text."""
    return [fault for block in blocks(prose(text)) for fault in _faults(block)]


def proselint_faults(text: str) -> list[Fault]:
    """What proselint finds in a Markdown text. Raises ImportError where it is not installed."""
    from proselint.checks import __register__
    from proselint.config import DEFAULT
    from proselint.registry import CheckRegistry
    from proselint.tools import LintFile

    registry = CheckRegistry()
    if not registry.checks:
        registry.register_many(__register__)
    off = _VOCABULARY["proselint"]["off"]
    checks = dict.fromkeys(off, False)  # first, as the first name that fits decides
    checks |= {name: is_on for name, is_on in DEFAULT["checks"].items() if name not in off}
    found = LintFile("prose", prose(text)).lint({**DEFAULT, "checks": checks})
    return [Fault(one.pos[0], f"{one.check_result.message} ({one.check_result.check_path})") for one in found]


def prose(text: str) -> str:
    """`text` with as many lines, in which code, generated blocks, pictures and addresses are blank."""
    for pattern in (_GENERATED, _FENCED, _COMMENT):
        text = pattern.sub(_blank, text)
    text = "\n".join(_without_indented_code(text.split("\n")))
    text = _LINK.sub(r"\1", _PICTURE.sub("", text))
    return _CODE.sub(lambda found: "`x`" + _blank(found), text).replace("**", "")


def blocks(text: str) -> Iterator[Block]:
    """The blocks of what `prose` returned."""
    begin, lines = 0, list[str]()
    for number, line in enumerate([*text.split("\n"), ""], start=1):
        is_row, item = line.startswith("|"), _ITEM.match(line)
        if lines and (not line.strip() or is_row or item or line.startswith("#")):
            yield Block(begin, "\n".join(lines))
            lines = []
        if is_row:
            yield from (Block(number, cell.strip()) for cell in line.split("|") if re.search("[A-Za-z]", cell))
        elif line.startswith("#"):
            yield Block(number, line.strip("# "), is_heading=True)
        elif line.strip():
            begin = begin if lines else number
            lines.append(line[item.end() :] if item else line.strip())


def _faults(block: Block) -> Iterator[Fault]:
    start = 0
    for sentence in _SENTENCE_END.split(block.text):
        start = block.text.index(sentence, start)
        words = len(_WORD.findall(sentence))
        if words > MOST_WORDS:
            yield Fault(_line(block, start), f'{words} words in one sentence: "{" ".join(sentence.split()[:6])} ..."')
        for rule in RULES:
            found = rule.pattern.search(sentence)
            if found is not None and not (block.is_heading and rule.is_of_sentences):
                yield Fault(_line(block, start + found.start()), f'{rule.say}: "{" ".join(found[0].split())[:60]}"')


def _line(block: Block, offset: int) -> int:
    return block.line + block.text.count("\n", 0, offset)


def _blank(found: re.Match[str]) -> str:
    return "\n" * found[0].count("\n")


def _without_indented_code(lines: list[str]) -> Iterator[str]:
    """Blank lines for those that are indented by four or more after a blank one."""
    may_begin = True
    for line in lines:
        is_code = may_begin and line.startswith("    ") and _ITEM.match(line) is None
        may_begin = is_code or not line.strip()
        yield "" if is_code else line


def main(paths: list[str]) -> int:
    """Print what is found in `paths`, or in all pages; 1 where there is anything."""
    count = 0
    for path in [Path(one) for one in paths] or pages():
        text = path.read_text(encoding="utf-8")
        name = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
        for line, message in sorted([*faults(text), *proselint_faults(text)]):
            print(f"{name}:{line}: {message}")
            count += 1
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
