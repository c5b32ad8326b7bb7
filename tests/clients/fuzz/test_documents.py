"""schemathesis against both OpenAPI documents, all checks on; HEADMAP_FUZZ_SEED takes another seed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = os.environ.get("HEADMAP_FUZZ_EXAMPLES", "25")
SEED = os.environ.get("HEADMAP_FUZZ_SEED", "1")


@pytest.mark.parametrize("service", ["inference", "scoring"])
def test_answers_are_as_the_document_says(service: str, url: str, scoring_url: str, key: str) -> None:
    st = Path(sys.executable).with_name("st")
    command = [str(st), "--no-color", "--config-file", str(Path(__file__).with_name("schemathesis.toml")), "run"]
    command += [f"{url if service == 'inference' else scoring_url}/openapi.json", "--checks", "all"]
    command += ["--header", f"Authorization:Bearer {key}", "--max-examples", EXAMPLES, "--seed", SEED]
    command += ["--continue-on-failure", "--generation-database", "none", "--suppress-health-check", "all"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, (done.stdout + done.stderr)[-8000:]
