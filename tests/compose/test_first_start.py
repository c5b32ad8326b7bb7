"""What a fresh clone starts with, nothing set: passwords of its own, which show nowhere and outlast kills."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from services.migrate import ADVICE
from tests.compose.stack import ROOT, Stack, clean_environment, find_compose
from tests.compose.test_stack import generate_body, score, wait_for_job

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1800)]

FILES = ("postgres-password", "redis-password", "redis.conf", "database-url", "broker-url", "rate-limit-url")


def test_the_gpu_file_is_read_beside_the_other(tmp_path: Path) -> None:
    nothing = tmp_path / "env"
    nothing.touch()
    files = [part for name in ("docker-compose.yml", "docker-compose.gpu.yml") for part in ("-f", str(ROOT / name))]
    command = [*find_compose(), "--env-file", str(nothing), *files, "config"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=clean_environment())
    assert done.returncode == 0, done.stderr
    services = yaml.safe_load(done.stdout)["services"]
    for name in ("inference", "scoring-worker"):
        devices = services[name]["deploy"]["resources"]["reservations"]["devices"]
        assert devices[0]["capabilities"] == ["gpu"]
        assert services[name]["environment"]["HEADMAP_DEVICE"] == "cuda"


def docker(*arguments: str, check: bool = True) -> str:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=check).stdout


def shown(stack: Stack) -> dict[str, str]:
    """Whatever Docker shows to those who may ask it, but no file of a container."""
    images = {line.split()[-1] for line in stack.docker("inspect", "--format", "{{.Image}}").splitlines()}
    running = stack.compose("ps", "-q").stdout.split()
    return {
        "inspect": stack.docker("inspect"),
        "logs": stack.compose("logs").stdout,
        "history": "".join(docker("history", "--no-trunc", image) for image in images),
        "processes": "".join(docker("top", container, "-eo", "pid,args", check=False) for container in running),
    }


def test_a_fresh_clone_needs_nothing_and_its_passwords_show_nowhere(stack: Stack, client: httpx.Client) -> None:
    assert not (stack.root / ".env").exists()
    assert wait_for_job(client, score(client, pages=2, seed=5)["id"])["state"] == "succeeded"
    passwords = [stack.read(f"{name}-password") for name in ("postgres", "redis")]
    assert len(set(passwords)) == 2
    assert min(len(password) for password in passwords) >= 32
    for place, text in shown(stack).items():
        assert text, place
        for password in passwords:
            assert password not in text, place
    ports = stack.docker("inspect", "--format", "{{json .HostConfig.PortBindings}}")
    published = f'{{"8080/tcp":[{{"HostIp":"127.0.0.1","HostPort":"{client.base_url.port}"}}]}}'
    assert set(ports.split()) == {"{}", published}


@pytest.mark.parametrize("service", ["scoring-api", "scoring-worker", "inference"])
def test_a_process_reads_its_own_files_alone(service: str, stack: Stack) -> None:
    readable = [
        name
        for name in FILES
        if stack.compose("exec", "-T", service, "cat", f"/run/headmap/{name}", check=False).returncode == 0
    ]
    assert readable == ["database-url", "broker-url", "rate-limit-url"]


def test_redis_and_postgres_let_nobody_in_without(stack: Stack) -> None:
    assert "NOAUTH" in stack.compose("exec", "-T", "redis", "redis-cli", "ping").stdout
    asked = "import psycopg; psycopg.connect('postgresql://headmap:guess@postgres/headmap')"
    refused = stack.compose("exec", "-T", "scoring-api", "python", "-c", asked, check=False)
    assert "password authentication failed" in refused.stderr + refused.stdout


def test_a_second_start_and_one_after_kills_keep_the_passwords(stack: Stack, client: httpx.Client) -> None:
    before = [stack.read(name) for name in FILES]
    job = score(client, pages=8, seed=6)
    stack.up()
    stack.compose("kill")
    stack.up()
    assert [stack.read(name) for name in FILES] == before
    assert wait_for_job(client, job["id"])["state"] == "succeeded"
    assert client.post("/generate", json=generate_body(max_new_tokens=4)).status_code == 200


@pytest.fixture
def chosen(tmp_path: Path, stack: Stack) -> Iterator[Stack]:
    """Another stack, of the images that `stack` has built, with passwords in its .env."""
    made = Stack(tmp_path, "POSTGRES_PASSWORD='@:/ %$one'\nREDIS_PASSWORD='@:/ %$two'\n")
    try:
        yield made
    finally:
        made.down()


def migrate(stack: Stack) -> subprocess.CompletedProcess[str]:
    """As `up` does, without what it would start afterwards."""
    stack.compose("run", "--rm", "-T", "--no-deps", "passwords")
    return stack.compose("run", "--rm", "-T", "--no-deps", "migrate", check=False)


def test_passwords_of_env_are_taken_and_one_that_came_too_late_is_told(chosen: Stack) -> None:
    chosen.compose("up", "-d", "scoring-api")
    asked = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8000/health/ready').status)"
    assert "200" in chosen.compose("exec", "-T", "scoring-api", "sh", "-c", f'sleep 5; python -c "{asked}"').stdout
    for place, text in shown(chosen).items():
        for piece in ("%$", "%25%24"):
            assert piece not in text, place
    assert migrate(chosen).returncode == 0

    first = (chosen.root / ".env").read_text()
    chosen.write_env(first.replace("one", "other"))
    late = migrate(chosen)
    assert late.returncode != 0
    assert ADVICE[:50] in late.stdout + late.stderr
    chosen.write_env(first)
    assert migrate(chosen).returncode == 0
