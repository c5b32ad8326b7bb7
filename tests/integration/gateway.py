"""The gateway's Caddyfile in a real Caddy, on ports of the test's own, before stand-ins of the services."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx

from tests.integration.servers import Server, find_or_install, free_port

GATEWAY = Path(__file__).parents[2] / "services" / "gateway"
HOSTS = {"scoring": "127.0.0.2", "inference": "127.0.0.3", "dashboard": "127.0.0.4"}
TRUSTED = "127.0.0.1"
"""The proxy whose X-Forwarded-* the gateway believes."""

Answer = Callable[[BaseHTTPRequestHandler], None]


class Upstream:
    """A replica of a service: lives, is ready with `ready`, and does with every other request what `answer` does."""

    def __init__(self, service: str, port: int, *, ready: int = 200, answer: Answer | None = None) -> None:
        self.requests: list[str] = []
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/health/live":
                    say(self, 200, "{}")
                elif self.path == "/health/ready":
                    status = "ok" if ready == 200 else "unavailable"
                    say(self, ready, f'{{"status":"{status}","service":"{service}","checks":{{}}}}')
                else:
                    self.do_POST()

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                upstream.requests.append(self.path)
                (answer or (lambda handler: say(handler, 200, "{}")))(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer((HOSTS[service], port), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def say(handler: BaseHTTPRequestHandler, status: int, body: str) -> None:
    handler.send_response(status)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body.encode())


class Gateway(Server):
    """Raises CannotHave where there is no Caddy. Requests are held for a tenth of a second, not for thirty."""

    def __init__(self, folder: Path) -> None:
        program = find_or_install("caddy", "caddy")
        self.port, self.upstream_port = free_port(), free_port()
        text = (GATEWAY / "Caddyfile").read_text()
        text = text.replace("/etc/caddy/site", str(GATEWAY / "site"))
        text = re.sub("lb_try_duration .*", "lb_try_duration 100ms", text)
        text = re.sub("lb_try_interval .*", "lb_try_interval 50ms", text)
        text = text.replace("dashboard}:8080", f"dashboard}}:{self.upstream_port}")
        ports = {"8080": self.port, "8081": free_port(), "8082": free_port(), "8000": self.upstream_port}
        text = re.sub("(?<= )8000|(?<=:)808[12]|^:8080", lambda m: _moved(m[0], ports), text, flags=re.MULTILINE)
        config = folder / "Caddyfile"
        config.write_text(text)
        names = [f"{service.upper()}_HOST={host}" for service, host in HOSTS.items()]
        names.append(f"GATEWAY_TRUSTED_PROXIES={TRUSTED}")
        home = [f"HOME={folder}", f"XDG_CONFIG_HOME={folder}", f"XDG_DATA_HOME={folder}"]
        run = [str(program), "run", "--config", str(config), "--adapter", "caddyfile"]
        super().__init__(["env", *names, *home, *run], self._lives, folder / "data")
        os.makedirs(self.folder, exist_ok=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def upstream(self, service: str, *, ready: int = 200, answer: Answer | None = None) -> Upstream:
        return Upstream(service, self.upstream_port, ready=ready, answer=answer)

    def _lives(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health/live", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False


def _moved(found: str, ports: dict[str, int]) -> str:
    number = found.removeprefix(":")
    return found.replace(number, str(ports[number]))
