"""Many transfers by real programs at once, paced so that what befalls the network befalls all of them.

Downloads and uploads by curl, commands by ssh, WebSockets without pings, and connections of which the caller
has ended its direction while the target still speaks.
"""

import hashlib
import json
import socket
import statistics
import subprocess
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from websockets.sync.client import connect

from tests.e2e import services, ssh
from tests.e2e.network import accept, dial, listen, read_to_end
from tests.e2e.system import System

MIB = 1 << 20
_RATE = 250_000
"""Bytes a second of each download and upload."""
_PATIENCE = 180
A_HUNDRED = {"download": 40, "upload": 30, "ssh": 10, "websocket": 10, "half-closed": 10}
A_FEW = {kind: count // 4 for kind, count in A_HUNDRED.items()}


class Transfers:
    """So many of each kind, from the cloud to an edge, each `seconds` long if nothing holds it up."""

    def __init__(
        self, own: System, kinds: Mapping[str, int], seconds: float, *, edge: str = "edge-1"
    ) -> None:
        self._own = own
        self._edge = own.topology.host(edge)
        self._kinds = kinds
        self._seconds = seconds
        self._mib = round(seconds * _RATE / MIB)
        self._directory = own.directory / f"transfers-{edge}"
        self._directory.mkdir()
        for kind, port in (("http", 9081), ("websocket", 9084)):
            own.serve(self._edge, kind, port)
        self._ssh = ssh.serve(own, self._edge, self._directory)
        for port in (9081, 9082, 9084):
            own.map_port(f"{port}=10264")

    def start(self) -> None:
        """Begin all of them; again, once they have finished."""
        self._callers: list[Future[None]] = []
        self._targets: list[Future[None]] = []
        self._target = listen(self._edge, ("0.0.0.0", 9082))
        for number in range(self._kinds["download"]):
            self._got(number).unlink(missing_ok=True)
        run = {
            "download": self._download,
            "upload": self._upload,
            "ssh": self._command,
            "websocket": self._websocket,
            "half-closed": self._half_closed,
        }
        pool = ThreadPoolExecutor(2 * sum(self._kinds.values()))
        self._targets += [pool.submit(self._serve_half_closed) for _ in range(self._kinds["half-closed"])]
        for kind, count in self._kinds.items():
            self._callers += [pool.submit(run[kind], number) for number in range(count)]
        pool.shutdown(wait=False)

    def arrived(self) -> list[int]:
        """Bytes of each download, so far."""
        files = [self._got(number) for number in range(self._kinds["download"])]
        return [file.stat().st_size if file.exists() else 0 for file in files]

    def open(self) -> int:
        """How many are not at their end."""
        return sum(not each.done() for each in self._callers)

    def first_bytes(self, since: float, before: list[int]) -> tuple[float, float]:
        """Seconds from `since` until each download grows beyond `before`: the median, and the most."""
        waited: dict[int, float] = {}
        while len(waited) < len(before):
            now = time.monotonic()
            assert now - since < 30, f"{len(before) - len(waited)} downloads do not go on"
            for number, size in enumerate(self.arrived()):
                if number not in waited and size > before[number]:
                    waited[number] = now - since
            time.sleep(0.02)
        return statistics.median(waited.values()), max(waited.values())

    def finish(self) -> None:
        """Wait for all; raises AssertionError unless each has brought every byte."""
        with self._target:
            for each in (*self._callers, *self._targets):
                each.result(_PATIENCE)

    def _got(self, number: int) -> Path:
        return self._directory / f"got-{number}"

    def _curl(self, *words: str | Path) -> subprocess.Popen[bytes]:
        argv = self._own.topology.cloud.command(["curl", "-sS", "--fail", "--noproxy", "*", *words])
        return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def _download(self, number: int) -> None:
        got = self._got(number)
        url = f"http://{self._edge.address}:9081/pattern?mib={self._mib}&seconds={self._seconds}"
        with self._curl("-N", "-o", got, url) as curl:
            _, said = curl.communicate(timeout=_PATIENCE)
        assert curl.returncode == 0, said
        assert hashlib.sha256(got.read_bytes()).hexdigest() == services.pattern_digest(self._mib)

    def _upload(self, _: int) -> None:
        with self._curl("-T", "-", f"http://{self._edge.address}:9081/upload") as curl:
            assert curl.stdin is not None
            for piece in services.paced(self._mib, self._seconds):
                curl.stdin.write(piece)
                curl.stdin.flush()
            answer, said = curl.communicate(timeout=_PATIENCE)
        assert curl.returncode == 0, said
        assert json.loads(answer)["sha256"] == services.pattern_digest(self._mib)

    def _command(self, _: int) -> None:
        lines = [f"seq {number} 3000" for number in range(round(self._seconds / services.STEP))]
        done = self._own.topology.cloud.run(
            [*self._ssh, f"; sleep {services.STEP}; ".join(lines)], timeout=_PATIENCE, stdin=""
        )
        assert done.returncode == 0, done.stderr
        here = subprocess.run(["sh", "-c", "; ".join(lines)], capture_output=True, text=True, check=True)
        assert done.stdout == here.stdout

    def _websocket(self, number: int) -> None:
        with (
            dial(self._own.topology.cloud, (self._edge.address, 9084)) as sock,
            connect(
                f"ws://{self._edge.address}:9084/", sock=sock, proxy=None, ping_interval=None
            ) as websocket,
        ):
            sock.settimeout(None)
            for step in range(round(self._seconds / services.STEP)):
                message = f"{number} {step} " * 500
                websocket.send(message)
                assert websocket.recv(timeout=_PATIENCE) == message
                time.sleep(services.STEP)

    def _half_closed(self, number: int) -> None:
        said = number.to_bytes(4) + services.random.Random(number).randbytes(300_000)
        with dial(self._own.topology.cloud, (self._edge.address, 9082)) as sock:
            sock.settimeout(_PATIENCE)
            sock.sendall(said)
            sock.shutdown(socket.SHUT_WR)
            heard = read_to_end(sock)
        assert heard == _answer(said, round(self._seconds / services.STEP))

    def _serve_half_closed(self) -> None:
        with accept(self._target, timeout=_PATIENCE) as sock:
            said = read_to_end(sock)
            answer = _answer(said, round(self._seconds / services.STEP))
            for at in range(0, len(answer), 16_384):
                sock.sendall(answer[at : at + 16_384])
                time.sleep(services.STEP)


def _answer(said: bytes, steps: int) -> bytes:
    digest = hashlib.sha256(said).digest()
    return digest * (steps * 16_384 // len(digest))
