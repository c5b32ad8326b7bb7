"""A load generator against the server; its report goes where HEADMAP_CLIENT_REPORTS says."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

USERS, SECONDS = 16, 30


def test_no_request_fails_under_load(url: str, key: str, tmp_path: Path) -> None:
    prefix = Path(os.environ.get("HEADMAP_CLIENT_REPORTS", tmp_path)) / "locust"
    command = [sys.executable, "-m", "locust", "-f", str(Path(__file__).with_name("locustfile.py")), "--headless"]
    command += ["--users", str(USERS), "--spawn-rate", str(USERS), "--run-time", f"{SECONDS}s", "--stop-timeout", "60"]
    command += ["--host", url, "--csv", str(prefix), "--only-summary"]
    environment = {**os.environ, "HEADMAP_CLIENT_KEY": key}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS + 120)
    with prefix.with_name("locust_stats.csv").open() as file:
        total = next(row for row in csv.DictReader(file) if row["Name"] == "Aggregated")
    assert (done.returncode, total["Failure Count"]) == (0, "0"), done.stderr[-3000:]
    assert int(total["Request Count"]) > USERS
