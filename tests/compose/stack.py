"""The cluster of docker-compose.yml under a project name and a port of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import uuid
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[2]
SERVICES = ("postgres", "redis", "scoring-api", "scoring-worker", "inference", "gateway")

# Runs in a container beside what it ends: all but the init process and itself, as a crash would.
CRASH = ["python", "-c", "import os; os.kill(-1, 9)"]


def find_compose() -> list[str]:
    """`docker compose` or `docker-compose`. Raises LookupError where there is neither."""
    if shutil.which("docker"):
        found = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
        if found.returncode == 0:
            return ["docker", "compose"]
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    raise LookupError("neither `docker compose` nor `docker-compose` is here")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Stack:
    """A copy of the checkout as a fresh clone has it, in `folder`, with an `.env` or without.

    What the tests need otherwise than it is by default is set in the shell. `down` removes everything, volumes too.
    """

    def __init__(self, folder: Path, env: str | None = None) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.project = f"headmap-test-{uuid.uuid4().hex[:8]}"
        self.root = clone(folder / "clone")
        self.write_env(env)
        self._environment = clean_environment() | {
            "HEADMAP_PORT": str(port),
            "HEADMAP_SHARD_PAGES": "2",
            "HEADMAP_LEASE_SECONDS": "10",
            "HEADMAP_SWEEP_SECONDS": "1",
        }
        self._command = [*find_compose(), "-p", self.project]

    def write_env(self, text: str | None) -> None:
        (self.root / ".env").unlink(missing_ok=True)
        if text is not None:
            (self.root / ".env").write_text(text)
            (self.root / ".env").chmod(0o600)

    def compose(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a compose command. Raises AssertionError with its output where it fails and `check` is set."""
        done = subprocess.run(
            [*self._command, *arguments],
            capture_output=True,
            text=True,
            check=False,
            env=self._environment,
            cwd=self.root,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"compose {' '.join(arguments)}: {done.stdout[-3000:]}\n{done.stderr[-6000:]}")
        return done

    def up(self, **scale: int) -> None:
        """Start what is not running, with replicas by service (underscores for hyphens)."""
        flags = [f for name, count in scale.items() for f in ("--scale", f"{name.replace('_', '-')}={count}")]
        self.compose("up", "-d", *flags)

    def down(self) -> None:
        self.compose("down", "-v", "--remove-orphans", "-t", "5")

    def crash(self, service: str, index: int = 1) -> None:
        """Kill -9 every process of a container; its restart policy brings it back."""
        self.compose("exec", "-T", f"--index={index}", service, *CRASH, check=False)

    def answered(self, index: int) -> float:
        """How many generations the inference replica has finished since it started."""
        program = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8000/metrics').read().decode())"
        done = self.compose("exec", "-T", f"--index={index}", "inference", "python", "-c", program)
        lines = [line for line in done.stdout.splitlines() if line.startswith("headmap_request_success_total")]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    def read(self, name: str) -> str:
        """A file of the volume `passwords`, as root reads it."""
        return self.compose("run", "--rm", "-T", "--no-deps", "passwords", "cat", f"/run/headmap/{name}").stdout

    def docker(self, *arguments: str) -> str:
        """What a docker command says of the stack's containers."""
        found = self.compose("ps", "-a", "-q").stdout.split()
        return subprocess.run(["docker", *arguments, *found], capture_output=True, text=True, check=True).stdout

    def told(self, url: str, ask_from: str) -> str:
        """What `url` answers to a process in the container of a service."""
        program = f"import urllib.request as u; print(u.urlopen('{url}').read().decode())"
        return self.compose("exec", "-T", ask_from, "python", "-c", program).stdout

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=120, trust_env=False)


def clone(folder: Path) -> Path:
    """What git knows or would take of the checkout as it stands."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
    return folder


def clean_environment() -> dict[str, str]:
    """Ours without what a developer has set for a stack of their own."""
    mine = ("HEADMAP_", "POSTGRES_", "REDIS_", "COMPOSE_")
    return {name: value for name, value in os.environ.items() if not name.startswith(mine)}
