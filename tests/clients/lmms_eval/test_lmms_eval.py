"""lmms-eval over pages that are made up here: one server, and the budget is part of the model's name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TASK = """\
task: made_up_pages
dataset_path: imagefolder
dataset_kwargs:
  data_dir: {folder}
test_split: train
output_type: generate_until
doc_to_visual: !function pictures.of
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{max_new_tokens: 16, temperature: 0}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
"""
PICTURES = 'def of(doc):\n    return [doc["image"].convert("RGB")]\n'


@pytest.fixture
def task(tmp_path: Path, pages: Path) -> Path:
    """A folder for --include_path; the questions lie beside the pictures, as `imagefolder` wants them."""
    lines = [json.loads(line) for line in (pages / "pages.jsonl").read_text().splitlines()]
    rows = [{"file_name": page["file"], **question} for page in lines for question in page["questions"][:1]]
    (pages / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = tmp_path / "task"
    folder.mkdir()
    (folder / "made_up_pages.yaml").write_text(TASK.format(folder=pages))
    (folder / "pictures.py").write_text(PICTURES)
    return folder


@pytest.mark.parametrize("budget", ["full", "sparsemm-0.2", "documents"])
def test_a_budget_is_evaluated(url: str, key: str, model: str, budget: str, task: Path, tmp_path: Path) -> None:
    name = f"{model}@{budget}"
    command = [sys.executable, "-m", "lmms_eval", "--model", "openai", "--include_path", str(task)]
    command += ["--model_args", f"base_url={url}/v1,api_key={key},model_version={name}", "--tasks", "made_up_pages"]
    command += ["--log_samples", "--output_path", str(tmp_path / "out")]
    apart = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    done = subprocess.run(command, env=apart, cwd=tmp_path, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    (results,) = (tmp_path / "out").rglob("*_results.json")
    (samples,) = (tmp_path / "out").rglob("*_samples_*.jsonl")
    answers = [json.loads(line)["filtered_resps"][0] for line in samples.read_text().splitlines()]
    assert not [one for one in answers if "LMMS_EVAL" in one]
    right = json.loads(results.read_text())["results"]["made_up_pages"]["exact_match,none"]
    assert right > 0.5 if budget == "full" else 0 <= right <= 1
