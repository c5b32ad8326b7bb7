"""`python -m tests.clients [NAME ...]`: each client in its own environment against one live server.

Environments are made under .clients/ and kept while their requirements stay the same. A client with a package.json is
one of node's, and is passed over where there is no node. HEADMAP_CLIENT_REPORTS is where the load tool's report goes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.environments import environment, node_environment
from benchmarks.process import server_process
from tests.clients.prepared import prepare_registry

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
CLIENTS = (
    "openai",
    "openai_node",
    "ai_sdk",
    "litellm",
    "langchain",
    "llama_index",
    "instructor",
    "pydantic_ai",
    "autogen",
    "agents",
    "huggingface",
    "text_generation",
    "lmms_eval",
    "vlmevalkit",
    "guidellm",
    "locust",
    "fuzz",
)
# Their requirements name every package: of what they would bring along much is never imported, and PyPI's torchvision
# cannot be beside a build of torch for CPUs.
COMPLETE = frozenset({"lmms_eval", "vlmevalkit"})
KEY = "a-key-of-the-settings"


def main(names: list[str]) -> int:
    unknown = set(names) - set(CLIENTS)
    if unknown:
        sys.stderr.write(f"no such client: {', '.join(sorted(unknown))}; there are {', '.join(CLIENTS)}\n")
        return 2
    chosen = [name for name in CLIENTS if name in names or not names]
    commands = {name: command for name in chosen if (command := _command(name))}
    ended: dict[str, int] = {}
    access = {"HEADMAP_API_KEYS": f'["{KEY}"]', "HEADMAP_ACCESS": "keys"}
    with TemporaryDirectory() as folder:
        prepare_registry(Path(folder))
        with (
            server_process(Path(folder), access) as inference,
            server_process(Path(folder), access, service="scoring") as scoring,
        ):
            urls = {"HEADMAP_CLIENT_URL": inference.url, "HEADMAP_CLIENT_SCORING_URL": scoring.url}
            given = {**os.environ, **urls, "HEADMAP_CLIENT_KEY": KEY, "HEADMAP_CLIENT_PYTHON": sys.executable}
            for name, command in commands.items():
                sys.stdout.write(f"== {name}\n")
                sys.stdout.flush()
                ended[name] = subprocess.run(command, env=given, cwd=ROOT, check=False).returncode
            ended |= {"inference's end": inference.end(), "scoring's end": scoring.end()}
    failed = [name for name, code in ended.items() if code]
    sys.stdout.write(f"failed: {', '.join(failed)}\n" if failed else f"all well: {', '.join(commands)}\n")
    return 1 if failed else 0


def _command(name: str) -> list[str] | None:
    """What runs a client's tests, in an environment that is made here; None where it cannot be run."""
    folder = ROOT / ".clients" / name
    if (HERE / name / "package.json").is_file():
        if shutil.which("node") is None or shutil.which("npm") is None:
            sys.stdout.write(f"{name} is passed over: node and npm are not installed\n")
            return None
        node_environment(folder, HERE / name)
        return ["node", "--test", str(folder / f"{name}.test.mjs")]
    python = environment(folder, HERE / name / "requirements.txt", complete=name in COMPLETE)
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / name)]
    return [*command, "-W", "ignore::pytest.PytestConfigWarning"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
