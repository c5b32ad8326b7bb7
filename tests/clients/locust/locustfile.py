"""What the load is: questions about a page, whole and streamed, with the whole cache and with parts of it."""

from __future__ import annotations

import base64
import os
import random
from pathlib import Path

from locust import HttpUser, constant, task

_SAMPLE = Path(__file__).parents[3] / "shared" / "headmap" / "demo" / "samples" / "0000.png"
_PICTURE = base64.b64encode(_SAMPLE.read_bytes()).decode()
_KVS = [{"method": "full"}, *({"method": name, "ratio": 0.2} for name in ("sparsemm", "snapkv", "adakv"))]


class Asker(HttpUser):
    wait_time = constant(0)

    def on_start(self) -> None:
        self.client.headers["Authorization"] = f"Bearer {os.environ['HEADMAP_CLIENT_KEY']}"

    @task(3)
    def whole(self) -> None:
        self.client.post("/generate", json=self._body())

    @task(1)
    def streamed(self) -> None:
        with self.client.post("/generate_stream", json=self._body(), catch_response=True) as response:
            if response.status_code == 200 and '"generated_text": "' not in response.text:
                response.failure("the stream did not end")

    def _body(self) -> dict[str, object]:
        parameters = {"max_new_tokens": 12, "kv": random.choice(_KVS)}
        return {"inputs": "What is the value of BXP?", "images": [_PICTURE], "parameters": parameters}
