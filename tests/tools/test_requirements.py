"""The lists that `make setup` and the images install from: complete, pinned by hash, and of one resolution."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = {"api": [], "model": ["model"], "dev": ["model", "dev"], "docs": ["docs"], "ui": ["ui"]}
# TORCH chooses it, and its build brings triton along
APART = {"api": set(), "model": {"torch"}, "dev": {"torch"}, "docs": set(), "ui": set()}


def text_of(name: str) -> str:
    return (ROOT / "requirements" / f"{name}.txt").read_text()


def pins(name: str) -> list[Requirement]:
    found = re.findall(r"^([a-z0-9].*?) \\$", text_of(name), re.MULTILINE)
    return [Requirement(line) for line in found]


@pytest.mark.parametrize("name", EXTRAS)
def test_each_line_is_a_pin_with_hashes_and_nothing_else(name: str) -> None:
    entry = r"[a-z0-9.-]+==[^\s;]+(?: ; [^\n\\]+)? \\\n(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+"
    assert re.fullmatch(rf"# Made by `make lock`\.\n(?:{entry})+", text_of(name))


@pytest.mark.parametrize("name", EXTRAS)
@pytest.mark.parametrize("python", ["3.11.9", "3.12.4", "3.13.1"])
@pytest.mark.parametrize(("system", "machine"), [("Linux", "x86_64"), ("Linux", "aarch64"), ("Darwin", "arm64")])
def test_what_the_project_asks_for_is_there_once(name: str, python: str, system: str, machine: str) -> None:
    platform = {"Linux": "linux", "Darwin": "darwin"}[system]
    here = dict(default_environment()) | {
        "python_version": python.rpartition(".")[0],
        "python_full_version": python,
        "platform_system": system,
        "sys_platform": platform,
        "platform_machine": machine,
    }
    pinned: dict[str, str] = {}
    for pin in pins(name):
        if pin.marker is None or pin.marker.evaluate(here):
            assert pin.name not in pinned, f"{pin.name} twice"
            pinned[pin.name] = next(iter(pin.specifier)).version
    lines = [
        *PROJECT["dependencies"],
        *(line for extra in EXTRAS[name] for line in PROJECT["optional-dependencies"][extra]),
    ]
    for asked in map(Requirement, lines):
        if asked.marker is not None and not asked.marker.evaluate(here):
            continue
        found = pinned.get(canonicalize_name(asked.name))
        if asked.name in APART[name]:
            assert found is None
        else:
            assert found is not None, f"{asked.name}: run `make lock`"
            assert asked.specifier.contains(found), f"{asked.name} {found}: run `make lock`"


def test_all_lists_have_the_same_releases() -> None:
    releases: dict[tuple[str, str], str] = {}
    for name in EXTRAS:
        for pin in pins(name):
            key = (pin.name, str(pin.marker) if "python_full_version" in str(pin.marker) else "")
            assert releases.setdefault(key, str(pin.specifier)) == str(pin.specifier), (name, pin.name)


def test_no_list_has_what_comes_with_a_build_of_torch() -> None:
    for name in EXTRAS:
        found = [pin.name for pin in pins(name) if re.match("torch$|nvidia-|cuda-|triton$", pin.name)]
        assert found == (["triton"] if name == "dev" else []), name
