"""Hand the compose stack its passwords, as files that their reader alone may open: `python -m services.passwords`.

For PostgreSQL and Redis each: what a Docker secret gives, else what `.env` gives, else one that is made at the first
start and kept. It runs as root, once before the others start. Nothing of it is an environment variable, an argument
or a line of a log, where `docker inspect`, `ps` and collectors of logs would show it.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import sys
from pathlib import Path
from urllib.parse import quote

from dotenv import dotenv_values

from headmap.http.logs import setup_logging
from headmap.settings import load_settings

logger = logging.getLogger("headmap.passwords")

NAMES = ("POSTGRES_PASSWORD", "REDIS_PASSWORD")
MADE = "made.json"

# Of the Dockerfile, and of redis in its image. PostgreSQL's entry point reads its password as root.
_OURS = 10001
_REDIS = 999
_ROOT = 0


def main() -> int:
    setup_logging(load_settings(), "passwords")
    try:
        hand_out(Path("/run/headmap"), given(Path("/run/secrets"), Path("/project/.env")))
    except (OSError, ValueError) as error:
        logger.error("%s", error)
        return 1
    return 0


def given(docker_secrets: Path, env_file: Path) -> dict[str, str]:
    """The passwords that somebody chose, by the names of `NAMES`. Blank ones count as not given.

    Raises OSError for a file that cannot be read, ValueError for one that is not UTF-8 and for a password of more than
    one line.
    """
    found = dotenv_values(env_file, interpolate=False) if env_file.is_file() else {}
    for name in NAMES:
        path = docker_secrets / name.lower().replace("_", "-")
        text = path.read_text(encoding="utf-8").rstrip("\r\n") if path.exists() else ""
        found[name] = text or found.get(name)
        if len((found[name] or "").splitlines()) > 1:
            raise ValueError(f"{name} has more than one line")
    return {name: found[name] or "" for name in NAMES if (found[name] or "").strip()}


def hand_out(folder: Path, chosen: dict[str, str]) -> None:
    """Write the files into `folder`, each with its owner's mode 0400, whole or not at all.

    The passwords that are made stay in `folder` where others are chosen, and serve again when these are taken away.
    Raises OSError where a file cannot be written.
    """
    kept = folder / MADE
    fresh = {name: secrets.token_hex(24) for name in NAMES}
    made = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else fresh
    postgres, redis = (chosen.get(name, made[name]) for name in NAMES)
    redis_url = f"redis://:{quote(redis, safe='')}@redis:6379"
    for name, owner, text in (
        (MADE, _ROOT, json.dumps(made)),
        ("postgres-password", _ROOT, postgres),
        ("redis-password", _ROOT, redis),
        ("redis.conf", _REDIS, f"requirepass {_quoted(redis)}\n"),
        ("database-url", _OURS, f"postgresql://headmap:{quote(postgres, safe='')}@postgres:5432/headmap"),
        ("broker-url", _OURS, f"{redis_url}/0"),
        # beside the broker's database, so that a flush of one leaves the other
        ("rate-limit-url", _OURS, f"{redis_url}/1"),
    ):
        _write(folder / name, owner, text)
    for name in NAMES:
        logger.info("%s: %s", name, "the one that was given" if name in chosen else "one that was made here")


def _quoted(text: str) -> str:
    """As redis.conf takes any bytes."""
    return '"' + "".join(f"\\x{byte:02x}" for byte in text.encode()) + '"'


def _write(path: Path, owner: int, text: str) -> None:
    unfinished = path.with_name(f".{path.name}")
    unfinished.unlink(missing_ok=True)
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
        os.chown(file.fileno(), owner, owner)
    unfinished.replace(path)


if __name__ == "__main__":
    sys.exit(main())
