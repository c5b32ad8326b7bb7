"""`from headmap import ...`: the library's names, and what importing them costs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import headmap

ROOT = Path(__file__).parents[2]


def test_importing_headmap_and_its_plain_names_imports_no_torch() -> None:
    code = (
        "import sys, headmap\n"
        "assert 'numpy' not in sys.modules, 'numpy'\n"
        "from headmap import BudgetRule, HeadScores, KVRequest\n"
        "assert 'torch' not in sys.modules, 'torch'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env={"PYTHONPATH": "shared"})


def test_every_name_is_there_and_is_the_same_as_at_its_home() -> None:
    for name in headmap.__all__:
        found = getattr(headmap, name)
        assert getattr(sys.modules[found.__module__], name) is found
        assert name in dir(headmap)


def test_a_name_that_is_not_there_is_refused_as_by_any_module() -> None:
    with pytest.raises(AttributeError, match="'nothing'"):
        headmap.nothing  # noqa: B018
    with pytest.raises(ImportError):
        from headmap import nothing  # type: ignore[attr-defined]  # noqa: F401
