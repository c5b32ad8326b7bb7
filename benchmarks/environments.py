"""Separate environments for packages that conflict with ours: made on request, kept while nothing changes."""

from __future__ import annotations

import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path


def environment(folder: Path, requirements: Path, constraints: Sequence[str] = ()) -> Path:
    """The Python of the environment in `folder`, made anew when `requirements` or `constraints` have changed.

    `constraints`: requirements on all installed packages, as in `pip install --constraint`. Raises CalledProcessError
    where pip fails.
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
        subprocess.run([*install, "-c", str(limits)], check=True)
        made_from.write_text(wanted, encoding="utf-8")
    return python
