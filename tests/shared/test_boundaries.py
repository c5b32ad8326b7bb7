"""The arrows of the layout: services -> shared, the pure parts pure, and the scoring API without torch."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "shared" / "headmap"
MODEL_STACK = ("torch", "transformers", "safetensors")
SQL = ("sqlalchemy", "alembic", "psycopg")
HTTP = ("fastapi", "starlette", "sse_starlette", "uvicorn", "httpx")
JOBS = ("celery", "kombu", "redis")


@cache
def imports(path: Path, *, deferred: bool = True) -> set[str]:
    """Full names of all modules that a file imports; without `deferred`, only those it imports when it is imported."""
    tree = ast.parse(path.read_text())
    later = [one for one in ast.walk(tree) if isinstance(one, ast.FunctionDef) or _is_for_types(one)]
    inside = {id(node) for one in later for node in ast.walk(one)}
    found: set[str] = set()
    for node in ast.walk(tree):
        if not deferred and id(node) in inside:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise ValueError(f"{path}: relative imports hide where an arrow points")
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def offenders(paths: list[Path], forbidden: tuple[str, ...], *, deferred: bool = True) -> list[str]:
    if not paths:
        raise LookupError("nothing to look at: the layout has changed")
    return [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in paths
        for name in sorted(imports(path, deferred=deferred))
        if any(name == module or name.startswith(f"{module}.") for module in forbidden)
    ]


def files(*folders: Path) -> list[Path]:
    return [path for folder in folders for path in sorted(folder.rglob("*.py"))]


def test_texts_are_read_and_written_as_utf8_whatever_the_locale() -> None:
    """ruff sees `open()`; of methods it knows only those on a path that was made in sight."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in files(*(ROOT / name for name in ("shared", "services", "benchmarks", "migrations")))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if node.func.attr in ("read_text", "write_text") and "encoding" not in [one.arg for one in node.keywords]
    ]
    assert found == []


def test_the_library_imports_no_process() -> None:
    assert offenders(files(LIBRARY), ("services", "tests", "benchmarks")) == []


@pytest.mark.parametrize("paths", [files(LIBRARY / "budgets"), [LIBRARY / "head_scores.py"], files(LIBRARY / "errors")])
def test_pure_parts_know_no_torch_no_sql_no_http(paths: list[Path]) -> None:
    others = ("registry", "jobs", "http", "kvcache", "families", "engine", "scoring", "pictures", "datasets")
    forbidden = MODEL_STACK + SQL + HTTP + JOBS + tuple(f"headmap.{name}" for name in others)
    assert offenders(paths, forbidden) == []


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        ("registry", MODEL_STACK + HTTP + JOBS + ("headmap.jobs", "headmap.http", "headmap.scoring")),
        ("jobs", MODEL_STACK + HTTP + ("headmap.http",)),
        ("http", MODEL_STACK + SQL + JOBS + ("headmap.jobs", "headmap.registry")),
        ("kvcache", SQL + HTTP + JOBS + ("headmap.registry", "headmap.jobs", "headmap.http", "headmap.engine")),
        ("engine", SQL + HTTP + JOBS + ("headmap.registry", "headmap.jobs", "headmap.http", "headmap.scoring")),
        ("pictures", MODEL_STACK + SQL + HTTP + JOBS + ("headmap.registry", "headmap.jobs", "headmap.http")),
        (
            "evaluation",
            SQL + HTTP + JOBS + ("headmap.registry", "headmap.jobs", "headmap.http"),
        ),
        ("scoring", SQL + HTTP + JOBS + ("headmap.registry", "headmap.jobs", "headmap.http")),
        ("datasets", MODEL_STACK + HTTP + JOBS + ("headmap.jobs", "headmap.http")),
        ("families", SQL + HTTP + JOBS + ("headmap.registry", "headmap.jobs", "headmap.http", "headmap.engine")),
    ],
)
def test_rooms_of_the_library_know_only_what_they_need(folder: str, forbidden: tuple[str, ...]) -> None:
    assert offenders(files(LIBRARY / folder), forbidden) == []


def test_jobs_reach_the_profiler_only_when_they_work() -> None:
    assert offenders(files(LIBRARY / "jobs"), ("headmap.scoring", "headmap.families"), deferred=False) == []


@pytest.mark.parametrize(("service", "other"), [("scoring", "inference"), ("inference", "scoring")])
def test_services_do_not_import_each_other(service: str, other: str) -> None:
    assert offenders(files(ROOT / "services" / service), (f"services.{other}", "services.cli")) == []


def test_what_serves_requests_knows_no_dialect_of_http() -> None:
    inference = ROOT / "services" / "inference"
    inner = [path for path in files(inference) if "http" not in path.parts and path.name != "__main__.py"]
    assert offenders(inner, ("services.inference.http", "fastapi", "starlette", "sse_starlette")) == []


def test_pictures_are_prepared_without_the_engine() -> None:
    intake = files(ROOT / "services" / "inference" / "intake")
    assert offenders(intake, ("services.inference.bridge", "services.inference.serving", "headmap.engine.engine")) == []


def test_the_dashboard_knows_the_rest_apis_alone() -> None:
    others = tuple(f"services.{name}" for name in ("scoring", "inference", "embedded", "cli"))
    rooms = tuple(f"headmap.{name}" for name in ("registry", "jobs", "kvcache", "engine", "families"))
    assert offenders(files(ROOT / "services" / "dashboard"), MODEL_STACK + SQL + JOBS + others + rooms) == []


def test_no_pickle_anywhere() -> None:
    assert offenders(files(LIBRARY, ROOT / "services"), ("pickle", "cloudpickle", "dill", "marshal", "shelve")) == []


def test_it_imports_without_torch() -> None:
    """In one process: what fails to import ends it, and its traceback names the module."""
    modules = (
        "services.scoring.app",
        "services.scoring.worker",
        "services.dashboard.app",
        "headmap.registry.migrations",
        "headmap.families.registry",
        "headmap.evaluation.curve",
        "headmap.evaluation.sources",
    )
    program = (
        "import sys\n"
        f"for name in {MODEL_STACK!r}: sys.modules[name] = None\n"  # importing it now raises
        f"import {', '.join(modules)}\n"
    )
    paths = os.pathsep.join([str(ROOT / "shared"), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_check_itself_sees_an_arrow_that_points_back(tmp_path: Path) -> None:
    wrong = LIBRARY / "budgets" / "rule.py"
    assert offenders([wrong], ("headmap.errors",)) == [
        "shared/headmap/budgets/rule.py imports headmap.errors",
        "shared/headmap/budgets/rule.py imports headmap.errors.BudgetTooSmall",
        "shared/headmap/budgets/rule.py imports headmap.errors.InvalidParameter",
    ]
