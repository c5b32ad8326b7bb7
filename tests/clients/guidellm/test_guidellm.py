"""GuideLLM's benchmark by its defaults: streams whose usage comes with every chunk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

TOKENIZER = Path(__file__).parents[3] / "shared" / "headmap" / "demo" / "model"
REQUESTS = 8


def test_no_request_fails(url: str, key: str, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    command = [str(Path(sys.executable).with_name("guidellm")), "run", "--disable-progress"]
    command += ["--backend", f"kind=openai_http,target={url},api_key={key}"]
    command += ["--tokenizer", f"kind=huggingface_auto,model={TOKENIZER}"]
    command += ["--profile", "kind=concurrent,streams=4", "--constraint", f"kind=max_requests,count={REQUESTS}"]
    command += [
        "--data",
        "kind=synthetic_text,prompt_tokens=40,output_tokens=12",
        "--output",
        f"kind=json,path={report}",
    ]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=offline, cwd=tmp_path, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    (benchmark,) = json.loads(report.read_text())["benchmarks"]
    requests = benchmark["requests"]
    assert (len(requests["successful"]), len(requests["errored"])) == (REQUESTS, 0), requests["errored"][:1]
    assert {one["output_metrics"]["text_tokens"] for one in requests["successful"]} == {12}
