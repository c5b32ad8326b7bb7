"""Separate environments for packages that conflict with ours: made on request, kept while nothing changes."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path


def environment(folder: Path, requirements: Path, constraints: Sequence[str] = (), *, complete: bool = False) -> Path:
    """The Python of the environment in `folder`, made anew when `requirements` or `constraints` have changed.

    `constraints`: requirements on all installed packages, as in `pip install --constraint`. `complete`: `requirements`
    names every package, and nothing that these require is added. Raises CalledProcessError where pip fails.
    """
    wanted = "\n".join([requirements.read_text(encoding="utf-8"), *constraints])
    python, made_from = folder / "bin" / "python", folder / "made-from.txt"
    if not made_from.is_file() or made_from.read_text(encoding="utf-8") != wanted:
        sys.stdout.write(f"Installing {folder.name}\n")
        sys.stdout.flush()
        venv.create(folder, clear=True, with_pip=True)
        limits = folder / "constraints.txt"
        limits.write_text("".join(f"{line}\n" for line in constraints), encoding="utf-8")
        install = [str(python), "-m", "pip", "install", "-qq", "--no-compile", "-r", str(requirements)]
        install += ["--no-deps"] if complete else []
        subprocess.run([*install, "-c", str(limits)], check=True)
        made_from.write_text(wanted, encoding="utf-8")
    return python


def node_environment(folder: Path, source: Path) -> Path:
    """A copy of `source` in `folder` with what its package-lock.json names installed, anew when the lock has changed.

    Raises CalledProcessError where npm fails.
    """
    lock, made_from = (source / "package-lock.json").read_text(encoding="utf-8"), folder / "made-from.txt"
    shutil.copytree(source, folder, dirs_exist_ok=True)
    if not made_from.is_file() or made_from.read_text(encoding="utf-8") != lock:
        sys.stdout.write(f"Installing {folder.name}\n")
        sys.stdout.flush()
        subprocess.run(["npm", "ci", "--silent", "--no-audit", "--no-fund"], cwd=folder, check=True)
        made_from.write_text(lock, encoding="utf-8")
    return folder
