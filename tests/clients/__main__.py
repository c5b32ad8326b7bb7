"""`python -m tests.clients [NAME ...]`: each client in its own environment against one live server.

Environments are made under .clients/ and kept while their requirements stay the same. HEADMAP_CLIENT_REPORTS is where
the load tool's report goes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.environments import environment
from benchmarks.process import server_process
from headmap.registry.migrations import migrate
from headmap.settings import Settings

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
CLIENTS = ("openai", "litellm", "langchain", "huggingface", "locust", "fuzz")
KEY = "a-key-of-the-settings"


def main(names: list[str]) -> int:
    unknown = set(names) - set(CLIENTS)
    if unknown:
        sys.stderr.write(f"no such client: {', '.join(sorted(unknown))}; there are {', '.join(CLIENTS)}\n")
        return 2
    chosen = [name for name in CLIENTS if name in names or not names]
    pythons = {name: environment(ROOT / ".clients" / name, HERE / name / "requirements.txt") for name in chosen}
    ended: dict[str, int] = {}
    access = {"HEADMAP_API_KEYS": f'["{KEY}"]', "HEADMAP_ACCESS": "keys"}
    with TemporaryDirectory() as folder:
        migrate(Settings(data_dir=Path(folder)))
        with (
            server_process(Path(folder), access) as inference,
            server_process(Path(folder), access, service="scoring") as scoring,
        ):
            urls = {"HEADMAP_CLIENT_URL": inference.url, "HEADMAP_CLIENT_SCORING_URL": scoring.url}
            given = {**os.environ, **urls, "HEADMAP_CLIENT_KEY": KEY}
            for name in chosen:
                sys.stdout.write(f"== {name}\n")
                sys.stdout.flush()
                command = [str(pythons[name]), "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / name)]
                command += ["-W", "ignore::pytest.PytestConfigWarning"]
                ended[name] = subprocess.run(command, env=given, cwd=ROOT, check=False).returncode
            ended |= {"inference's end": inference.end(), "scoring's end": scoring.end()}
    failed = [name for name, code in ended.items() if code]
    sys.stdout.write(f"failed: {', '.join(failed)}\n" if failed else f"all well: {', '.join(chosen)}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
