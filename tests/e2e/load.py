"""Callers who never stop: connect, ask, read the answer, and begin again. What went wrong is kept."""

import hashlib
import itertools
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from tests.e2e import services
from tests.e2e.network import inside
from tunnelctl.demo.topology import Host

_PATIENCE = 20.0
"""Seconds after which a call hangs: more than a call waits for an agent that is away."""
_CONNECT = 3.0
"""Seconds for a connection: without a server, packets to an edge go nowhere."""


class Load:
    """`callers` threads on a host, each with one call at a time, while the block runs."""

    def __init__(
        self,
        host: Host,
        connect: Callable[[], socket.socket],
        *,
        callers: int = 4,
        kib: int = 64,
        pause: float = 0,
    ) -> None:
        """Take `connect`, which connects to a service `http` (see `services`) from the host's network.

        Each answer is `kib` KiB, whose sha256 has to be right. Before its next call, a thread waits for
        `pause` seconds.
        """
        self._host, self._connect, self._kib, self._pause = host, connect, kib, pause
        self._callers = [threading.Thread(target=self._call_on_and_on) for _ in range(callers)]
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.served = 0
        self.slowest = 0.0
        """Seconds that a call has taken at most, connecting included."""
        self.failures: list[tuple[float, BaseException]] = []
        """When (by time.monotonic), and what: OSError, or AssertionError for a wrong answer."""
        body = next(services.pattern(1))[: kib * 1024]
        self._digest = hashlib.sha256(body).digest()

    def __enter__(self) -> Self:
        for caller in self._callers:
            caller.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for caller in self._callers:
            caller.join(2 * _PATIENCE)
        assert not any(caller.is_alive() for caller in self._callers), "a call hangs"

    def hanging(self) -> list[BaseException]:
        """Failures by a call that was let in, and neither answered nor reset."""
        return [error for _, error in self.failures if isinstance(error, TimeoutError)]

    def wrong(self) -> list[BaseException]:
        """Failures by an answer that was not what it should have been."""
        return [error for _, error in self.failures if isinstance(error, AssertionError)]

    def _call_on_and_on(self) -> None:
        inside(self._host, self._loop)

    def _loop(self) -> None:
        for _ in itertools.takewhile(lambda _: not self._stop.is_set(), itertools.count()):
            began = time.monotonic()
            try:
                self._call()
            except (OSError, AssertionError) as error:
                with self._lock:
                    self.failures.append((time.monotonic(), error))
                self._stop.wait(0.05)
            else:
                with self._lock:
                    self.served += 1
                    self.slowest = max(self.slowest, time.monotonic() - began)
                self._stop.wait(self._pause)

    def _call(self) -> None:
        try:
            sock = self._connect()
        except TimeoutError:
            raise ConnectionError("nobody was there") from None
        with sock:
            sock.settimeout(_PATIENCE)
            sock.sendall(f"GET /piece?kib={self._kib} HTTP/1.0\r\n\r\n".encode())
            answer = b"".join(iter(lambda: sock.recv(1 << 16), b""))
        head, _, body = answer.partition(b"\r\n\r\n")
        # A reset is a failure that a caller sees. A clean end before the end would be one that it does not.
        assert head.startswith(b"HTTP/1.1 200"), f"{answer[:200]!r}"
        assert hashlib.sha256(body).digest() == self._digest, f"{len(body)} bytes that are not the answer"


def to(address: str, port: int) -> Callable[[], socket.socket]:
    """Connects there."""
    return lambda: socket.create_connection((address, port), timeout=_CONNECT)


def by_connect_socket(path: str, target: str) -> Callable[[], socket.socket]:
    """Asks the server's Unix socket for it, by HTTP CONNECT."""

    def connect() -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.settimeout(_PATIENCE)
            sock.connect(path)
            sock.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                part = sock.recv(1)
                assert part, f"{head!r}"
                head += part
            assert b" 200 " in head, f"{head!r}"
        except BaseException:
            sock.close()
            raise
        return sock

    return connect
