"""VLMEvalKit over pages that are made up here: two budgets of one server in one run, told apart by the model's name."""

from __future__ import annotations

import base64
import csv
import json
import os
import subprocess
import sys
from pathlib import Path

BUDGETS = ("full", "sparsemm-0.2", "documents")
DATA = "made_up_pages"


def write_table(pages: Path, file: Path) -> None:
    """The pages as VLMEvalKit reads them: a table with the pictures in it."""
    with file.open("w", newline="") as out:
        rows = csv.writer(out, delimiter="\t")
        rows.writerow(["index", "image", "question", "answer"])
        for index, line in enumerate((pages / "pages.jsonl").read_text().splitlines()):
            page = json.loads(line)
            asked = page["questions"][0]
            picture = base64.b64encode((pages / page["file"]).read_bytes()).decode()
            rows.writerow([index, picture, asked["question"], asked["answer"]])


def test_budgets_are_evaluated(url: str, key: str, model: str, pages: Path, tmp_path: Path) -> None:
    write_table(pages, tmp_path / f"{DATA}.tsv")
    served = {"class": "GPT4V", "api_base": f"{url}/v1/chat/completions", "key": key, "max_tokens": 16}
    config = {
        "model": {budget: {**served, "model": f"{model}@{budget}"} for budget in BUDGETS},
        "data": {DATA: {"class": "ImageVQADataset", "dataset": DATA}},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    command = [sys.executable, "-m", "vlmeval", "--config", "config.json", "--work-dir", "out"]
    apart = {**os.environ, "HF_HUB_OFFLINE": "1", "LMUData": str(tmp_path)}
    done = subprocess.run(command, env=apart, cwd=tmp_path, capture_output=True, text=True, timeout=1200)
    for budget in BUDGETS:
        states = [json.loads(file.read_text()) for file in (tmp_path / "out" / budget).rglob("status.json")]
        assert states, (done.stdout + done.stderr)[-3000:]
        assert "0.00% (0/" in done.stdout + done.stderr
        (share,) = (tmp_path / "out" / budget).glob("*_acc.csv")
        assert 0 <= float(share.read_text().split()[-1].strip('"')) <= 100
