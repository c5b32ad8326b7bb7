"""A way to a server that can fall silent: nothing is refused and nothing is answered.

`python -m tests.integration.links PORT TARGET` forwards connections from one local port to another.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
import subprocess
import sys
import time
from typing import Literal

from tests.integration.processes import ROOT
from tests.integration.servers import CannotHave, free_port

Cut = Literal["frozen", "dropped"]
"""How a link falls silent. frozen: the kernel goes on acknowledging packets and accepting connections, as a stopped
server's or proxy's does. dropped: every packet is lost, as behind a failed switch or a firewall."""

_LOCAL = "127.0.0.1"


class Link:
    """Forwards `port` to the local port `target`, in a process of its own."""

    def __init__(self, target: int, cut: Cut) -> None:
        """Raises CannotHave where this machine lets nobody drop packets."""
        self.port = free_port()
        self._cut = cut
        self._rules = [["-p", "tcp", "-i", "lo", side, str(self.port), "-j", "DROP"] for side in ("--dport", "--sport")]
        if cut == "dropped":
            _check_firewall()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.links", str(self.port), str(target)],
            cwd=ROOT,
            start_new_session=True,
        )
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex((_LOCAL, self.port)) == 0:
                    return
            time.sleep(0.05)
        raise RuntimeError("the link did not start")

    def cut(self) -> None:
        if self._cut == "frozen":
            self._process.send_signal(signal.SIGSTOP)
        for rule in self._rules if self._cut == "dropped" else ():
            _firewall("-I", rule)

    def heal(self) -> None:
        if self._cut == "frozen":
            self._process.send_signal(signal.SIGCONT)
        for rule in self._rules if self._cut == "dropped" else ():
            while _firewall("-D", rule):
                pass

    def end(self) -> None:
        self.heal()
        self._process.kill()
        self._process.wait(10)


def _check_firewall() -> None:
    if shutil.which("iptables") is None:
        raise CannotHave("iptables is not here")
    try_out = ["-p", "tcp", "-i", "lo", "--dport", "1", "-j", "DROP"]
    if not (_firewall("-I", try_out) and _firewall("-D", try_out)):
        raise CannotHave("this machine lets nobody drop packets by iptables")


def _firewall(action: str, rule: list[str]) -> bool:
    return subprocess.run(["iptables", "-w", action, "INPUT", *rule], capture_output=True, check=False).returncode == 0


async def _forward(port: int, target: int) -> None:
    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(2**16):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass  # one side is gone, and the other is told by closing
        finally:
            writer.close()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection(_LOCAL, target)
        except OSError:
            writer.close()
            return
        await asyncio.gather(copy(reader, back), copy(there, writer))

    async with await asyncio.start_server(connect, _LOCAL, port) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_forward(int(sys.argv[1]), int(sys.argv[2])))
