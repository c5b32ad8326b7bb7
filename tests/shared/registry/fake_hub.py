"""A Hub on disk: the few endpoints that huggingface_hub needs to make a repository, commit to it and read from it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

WRITER, READER = "hf_writer", "hf_reader"
_API = re.compile(r"/api/models/([^/]+/[^/]+)(?:/(preupload|commit|branch|revision)/([^/?]+))?")
_RESOLVE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


class FakeHub:
    """Repositories are folders: `refs/BRANCH` names a commit, and `commits/COMMIT` holds its files.

    A private repository is not there for callers without a token; only WRITER writes.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = ""
        self.private: set[str] = set()
        self.fault: int | None = None
        """The status of every answer, as long as it is set."""

    def head(self, repo: str, revision: str) -> str | None:
        """The commit of a branch or of a commit's name."""
        ref = self.root / repo / "refs" / revision
        if ref.is_file():
            return ref.read_text()
        return revision if (self.root / repo / "commits" / revision).is_dir() else None

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        commit = self.head(repo, revision)
        folder = self.root / repo / "commits" / (commit or "none")
        return {path.name: path.read_bytes() for path in folder.glob("*")}

    def commit(self, repo: str, files: dict[str, bytes], branch: str = "main") -> str:
        """Commit files on top of what the branch has, and return the commit's name."""
        whole = self.files(repo, branch) | files
        commit = hashlib.sha1(repr((self.head(repo, branch), sorted(whole.items()))).encode()).hexdigest()
        folder = self.root / repo / "commits" / commit
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in whole.items():
            (folder / name).write_bytes(content)
        (self.root / repo / "refs").mkdir(exist_ok=True)
        (self.root / repo / "refs" / branch).write_text(commit)
        return commit


@contextmanager
def fake_hub(root: Path) -> Iterator[FakeHub]:
    """Serve a Hub from the folder `root` until the block ends."""
    hub = FakeHub(root)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def log_message(self, *_: object) -> None:
        pass

    @property
    def token(self) -> str | None:
        return self.headers.get("authorization", "").removeprefix("Bearer ") or None

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        path = urlsplit(self.path).path
        if self.hub.fault is not None:
            return self.answer(self.hub.fault, {"error": "fault"})
        if path == "/api/validate-yaml":
            content = json.loads(body)["content"]
            errors = [{"message": '"base_model" is none'}] if 'base_model: "no/model"' in content else []
            return self.answer(200 if not errors else 400, {"errors": errors, "warnings": []})
        if self.token != WRITER:
            return self.answer(401 if self.token is None else 403, {"error": "you may not write"})
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        found = _API.fullmatch(path)
        if found is None:
            return self.answer(404, {"error": "no such endpoint"})
        repo, what, revision = found[1], found[2], unquote(found[3] or "main")
        if what == "branch":
            if self.hub.head(repo, revision) is not None:
                return self.answer(409, {"error": "there already"})
            self.hub.commit(repo, self.hub.files(repo), revision)
            return self.answer(200, {})
        if self.hub.head(repo, revision) is None:
            return self.answer(404, {"error": "no such revision"}, {"X-Error-Code": "RevisionNotFound"})
        if what == "preupload":
            inline = {"uploadMode": "regular", "shouldIgnore": False}
            return self.answer(200, {"files": [{"path": one["path"], **inline} for one in json.loads(body)["files"]]})
        lines = [json.loads(line) for line in body.splitlines()]
        files = [line["value"] for line in lines if line["key"] == "file"]
        added = {file["path"]: base64.b64decode(file["content"]) for file in files}
        commit = self.hub.commit(repo, added, revision)
        return self.answer(
            200, {"success": True, "commitUrl": f"{self.hub.url}/{repo}/commit/{commit}", "commitOid": commit}
        )

    def create(self, asked: dict[str, Any]) -> None:
        repo = f"{asked['organization']}/{asked['name']}"
        if (self.hub.root / repo).exists():
            return self.answer(409, {"error": "there already", "url": f"{self.hub.url}/{repo}"})
        if asked.get("visibility") == "private" or asked.get("private"):
            self.hub.private.add(repo)
        self.hub.commit(repo, {".gitattributes": b""})
        return self.answer(200, {"url": f"{self.hub.url}/{repo}", "name": repo})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if self.hub.fault is not None:
            return self.answer(self.hub.fault, {"error": "fault"})
        resolved, api = _RESOLVE.fullmatch(path), _API.fullmatch(path)
        repo = resolved[1] if resolved else api[1] if api else ""
        if not (self.hub.root / repo / "refs").is_dir() or (repo in self.hub.private and self.token is None):
            return self.answer(401, {"error": "Invalid username or password."}, {"X-Error-Code": "RepoNotFound"})
        revision = unquote(resolved[2] if resolved else api[3] or "main") if (resolved or api) else "main"
        commit = self.hub.head(repo, revision)
        if commit is None:
            return self.answer(404, {"error": "no such revision"}, {"X-Error-Code": "RevisionNotFound"})
        if resolved is None:
            return self.answer(200, {"id": repo, "sha": commit, "siblings": []})
        content = self.hub.files(repo, commit).get(unquote(resolved[3]))
        if content is None:
            return self.answer(404, {"error": "no such file"}, {"X-Error-Code": "EntryNotFound"})
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": commit}
        return self.answer(200, content, headers)

    def answer(self, status: int, body: object, headers: dict[str, str] | None = None) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/octet-stream" if isinstance(body, bytes) else "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
