"""An S3 server in this process (moto), with buckets for tests."""

from __future__ import annotations

import logging
import socket
import uuid

import boto3
import httpx
import pytest
from moto.server import ThreadedMotoServer


class S3Server:
    """Speaks S3 on a free port of this machine. Any key is right, unless `ask_for_keys` is on."""

    def __init__(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        host, port = self._server.get_host_and_port()
        self.url = f"http://{host}:{port}"
        keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}
        self.client = boto3.client("s3", endpoint_url=self.url, **keys)

    def make_bucket(self) -> str:
        name = f"test-{uuid.uuid4().hex[:12]}"
        self.client.create_bucket(Bucket=name)
        return name

    def ask_for_keys(self, on: bool) -> None:
        """Whether keys must belong to an account; none does."""
        httpx.post(f"{self.url}/moto-api/reset-auth", content=b"0" if on else b"inf", trust_env=False)

    def stop(self) -> None:
        self._server.stop()


def speak_to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the variables that say where S3 is."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def nobody() -> str:
    """A URL where nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"
