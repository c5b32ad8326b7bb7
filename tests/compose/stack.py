"""The cluster of docker-compose.yml under a project name and a port of its own."""

from __future__ import annotations

import os
import secrets
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
    """Passwords are made up for each; `down` removes everything, volumes too."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.project = f"headmap-test-{uuid.uuid4().hex[:8]}"
        settings = {
            "POSTGRES_PASSWORD": secrets.token_hex(16) + "@:/ %",  # libpq gets it beside the URL, whatever is in it
            "REDIS_PASSWORD": secrets.token_hex(16),
            "HEADMAP_PORT": str(port),
            "HEADMAP_SHARD_PAGES": "2",
            "HEADMAP_LEASE_SECONDS": "10",
            "HEADMAP_SWEEP_SECONDS": "1",
        }
        env_file = folder / "env"
        env_file.write_text("".join(f"{name}='{value}'\n" for name, value in settings.items()))
        files = ["--project-directory", str(ROOT), "-f", str(ROOT / "docker-compose.yml"), "--env-file", str(env_file)]
        self._command = [*find_compose(), *files, "-p", self.project]

    def compose(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a compose command. Raises AssertionError with its output where it fails and `check` is set."""
        done = subprocess.run(
            [*self._command, *arguments], capture_output=True, text=True, check=False, env=clean_environment()
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

    def told(self, url: str, ask_from: str) -> str:
        """What `url` answers to a process in the container of a service."""
        program = f"import urllib.request as u; print(u.urlopen('{url}').read().decode())"
        return self.compose("exec", "-T", ask_from, "python", "-c", program).stdout

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=120, trust_env=False)


def clean_environment() -> dict[str, str]:
    """Ours without what a developer has set for a stack of their own."""
    mine = ("HEADMAP_", "POSTGRES_", "REDIS_", "COMPOSE_")
    return {name: value for name, value in os.environ.items() if not name.startswith(mine)}
