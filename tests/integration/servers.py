"""Real PostgreSQL and Redis for the tests: found here or installed, on free ports, in folders of their own."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path


class CannotHave(Exception):
    """A server is neither here nor can be installed; the message says what to do."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def find_or_install(program: str, package: str, *, also_in: str | None = None) -> Path:
    """The path of `program`; as root on Debian, after installing `package` where it is missing. Raises CannotHave."""

    def find() -> Path | None:
        folders = sorted(Path("/").glob(also_in.lstrip("/")), reverse=True) if also_in else []
        candidates = [*(str(folder) for folder in folders), os.environ.get("PATH", "")]
        found = shutil.which(program, path=os.pathsep.join(candidates))
        return Path(found) if found else None

    found = find()
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["apt-get", "update"], ["apt-get", "install", "-y", "--no-install-recommends", package]):
            subprocess.run(command, env=environment, capture_output=True, timeout=240, check=False)
        found = find()
    if found is None:
        raise CannotHave(
            f"{program} is not here and cannot be installed; install the package {package}, or run as root"
        )
    return found


class Server:
    """One server process with a folder of its own; `restart` keeps its data and port."""

    def __init__(self, command: list[str], ready: Callable[[], bool], folder: Path) -> None:
        self._command, self._ready, self.folder = command, ready, folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        log = (self.folder.parent / f"{self.folder.name}.log").open("ab")
        self._process = subprocess.Popen(self._command, stdout=log, stderr=log, start_new_session=True)
        log.close()
        deadline = time.monotonic() + 30
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                text = (self.folder.parent / f"{self.folder.name}.log").read_text()[-2000:]
                raise RuntimeError(f"{self._command[0]} did not start: {text}")
            time.sleep(0.1)

    def stop(self, how: int = signal.SIGINT) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(how)  # SIGINT: PostgreSQL's fast shutdown, Redis's too
            self._process.wait(30)
        self._process = None

    def restart(self, how: int = signal.SIGINT) -> None:
        self.stop(how)
        self.start()


class Postgres(Server):
    CRASH = signal.SIGQUIT
    """Ends it and its children at once, without a checkpoint: the next start recovers from the log."""

    def __init__(self) -> None:
        binaries = find_or_install("initdb", "postgresql", also_in="/usr/lib/postgresql/*/bin").parent
        self.port = free_port()
        root = Path(tempfile.mkdtemp(prefix="headmap-postgres-"))
        data = root / "data"
        data.mkdir()
        prefix: list[str] = []
        if os.geteuid() == 0:  # which PostgreSQL refuses
            user = _server_user()
            for path in (root, data):
                os.chown(path, user.pw_uid, user.pw_gid)
            prefix = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        initdb = [*prefix, str(binaries / "initdb"), "-D", str(data), "-U", "headmap", "-A", "trust", "-E", "UTF8"]
        subprocess.run([*initdb, "--no-sync", "--locale=C"], check=True, capture_output=True, cwd=root)
        flags = ["-F", "-k", str(root), "-h", "127.0.0.1", "-p", str(self.port), "-N", "60"]
        super().__init__([*prefix, str(binaries / "postgres"), "-D", str(data), *flags], self._accepts, data)
        self._root = root
        self._binaries = binaries

    def program(self, name: str) -> str:
        """The path of a program of this PostgreSQL, as pg_dump."""
        return str(self._binaries / name)

    def url(self, name: str = "postgres") -> str:
        return f"postgresql://headmap@127.0.0.1:{self.port}/{name}"

    def create(self, name: str) -> str:
        """A new empty database; returns its URL."""
        import psycopg

        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return self.url(name)

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self._root, ignore_errors=True)

    def _accepts(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self.url(), connect_timeout=1).close()
        except psycopg.OperationalError:
            return False
        return True


class PgBouncer(Server):
    """In transaction mode, before `postgres`, with few server connections for many clients."""

    def __init__(self, postgres: Postgres) -> None:
        program = find_or_install("pgbouncer", "pgbouncer", also_in="/usr/sbin")
        self.port = free_port()
        self._root = Path(tempfile.mkdtemp(prefix="headmap-pgbouncer-"))
        data = self._root / "data"
        data.mkdir()
        file = data / "pgbouncer.ini"
        file.write_text(
            f"[databases]\n* = host=127.0.0.1 port={postgres.port} user=headmap\n[pgbouncer]\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {self.port}\nunix_socket_dir =\nauth_type = any\n"
            "pool_mode = transaction\ndefault_pool_size = 4\nmax_client_conn = 200\n"
        )
        prefix: list[str] = []
        if os.geteuid() == 0:  # which PgBouncer refuses
            user = _server_user()
            for path in (self._root, data, file):
                os.chown(path, user.pw_uid, user.pw_gid)
            prefix = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        super().__init__([*prefix, str(program), str(file)], self._accepts, data)

    def url(self, name: str) -> str:
        return f"postgresql://headmap@127.0.0.1:{self.port}/{name}"

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self._root, ignore_errors=True)

    def _accepts(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self.url("postgres"), connect_timeout=1).close()
        except psycopg.OperationalError:
            return False
        return True


class Redis(Server):
    CRASH = signal.SIGKILL
    """What it had not written to its log yet, up to a second's messages, is lost."""

    def __init__(self, *, tls: bool = False) -> None:
        """With `tls`, only over TLS: `authority` is the file of its certificate's authority."""
        program = find_or_install("redis-server", "redis-server")
        self.port = free_port()
        self._root = Path(tempfile.mkdtemp(prefix="headmap-redis-"))
        data = self._root / "data"
        data.mkdir()
        flags = ["--bind", "127.0.0.1", "--dir", str(data), "--appendonly", "yes"]
        self.authority: Path | None = None
        if tls:
            self.authority, certificate, key = _certificates(self._root)
            flags += ["--port", "0", "--tls-port", str(self.port), "--tls-auth-clients", "no"]
            flags += ["--tls-cert-file", str(certificate), "--tls-key-file", str(key)]
            flags += ["--tls-ca-cert-file", str(self.authority)]
        else:
            flags += ["--port", str(self.port)]
        super().__init__([str(program), *flags], self._accepts, data)

    @property
    def url(self) -> str:
        if self.authority is None:
            return f"redis://127.0.0.1:{self.port}/0"
        return f"rediss://127.0.0.1:{self.port}/0?ssl_ca_certs={self.authority}"

    def flush(self) -> None:
        import redis

        with redis.Redis.from_url(self.url) as client:
            client.flushall()

    def remove(self) -> None:
        self.stop(signal.SIGTERM)
        shutil.rmtree(self._root, ignore_errors=True)

    def _accepts(self) -> bool:
        import redis

        try:
            with redis.Redis.from_url(self.url, socket_timeout=1) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


def _certificates(folder: Path) -> tuple[Path, Path, Path]:
    """The files of an authority's certificate, and of the certificate and the key of the server 127.0.0.1."""
    program = find_or_install("openssl", "openssl")
    authority, certificate, key = (folder / name for name in ("authority.pem", "server.pem", "server.key"))
    new = [str(program), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    signer = ["-keyout", str(folder / "authority.key"), "-out", str(authority), "-subj", "/CN=tests"]
    server = ["-keyout", str(key), "-out", str(certificate), "-subj", "/CN=redis", "-addext"]
    server += ["subjectAltName=IP:127.0.0.1", "-CA", str(authority), "-CAkey", str(folder / "authority.key")]
    for arguments in (signer, server):
        subprocess.run([*new, "-days", "2", *arguments], check=True, capture_output=True)
    return authority, certificate, key


def _server_user() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise CannotHave("PostgreSQL refuses to run as root, and there is no user postgres or nobody")
