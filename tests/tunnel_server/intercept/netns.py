"""Network namespaces of the test's own, and code that runs inside them."""

import contextlib
import ctypes
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

_numbers = itertools.count()
_libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000


class Namespace:
    """One network namespace, with lo up."""

    def __init__(self, name: str) -> None:
        self.name = name

    def sh(self, *commands: str) -> str:
        """Run each command line in it; the output of the last."""
        output = ""
        for command in commands:
            output = subprocess.run(
                ["ip", "netns", "exec", self.name, *command.split()],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
        return output

    def run(self, function: Callable[[], T]) -> T:
        """Call a function in it, in a thread of its own; sockets made there stay there."""
        result: list[T] = []
        errors: list[BaseException] = []

        def work() -> None:
            try:
                _enter(self.name)
                result.append(function())
            except BaseException as error:  # noqa: BLE001 - it is raised again where it was asked for
                errors.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return result[0]

    def connect(self, address: str, port: int, *, mark: int = 0, timeout: float = 20) -> socket.socket:
        """A TCP connection made from in there."""

        def connect() -> socket.socket:
            sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
            try:
                sock.settimeout(timeout)
                if mark:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
                sock.connect((address, port))
            except BaseException:
                sock.close()
                raise
            return sock

        return self.run(connect)

    def ask(self, address: str, port: int, *, mark: int = 0, timeout: float = 20) -> Any:
        """Connect, and read the one line with which every server here greets: what it knows of the call."""
        with self.connect(address, port, mark=mark, timeout=timeout) as sock, sock.makefile() as file:
            return json.loads(file.readline())


def _enter(name: str) -> None:
    with Path(f"/run/netns/{name}").open() as file:
        if _libc.setns(file.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")


@contextlib.contextmanager
def namespaces(*names: str) -> Iterator[list[Namespace]]:
    """Make these, and remove them with all that is in them."""
    made = [Namespace(f"it-{os.getpid()}-{next(_numbers)}-{name}") for name in names]
    try:
        for namespace in made:
            subprocess.run(["ip", "netns", "add", namespace.name], check=True)
            namespace.sh("ip link set lo up")
        yield made
    finally:
        for namespace in made:
            subprocess.run(["ip", "netns", "del", namespace.name], check=False, capture_output=True)


@contextlib.contextmanager
def greeter(namespace: Namespace, address: str, port: int) -> Iterator[None]:
    """A server that says "direct" to whoever connects: an ordinary service, seen without the tunnel."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = namespace.run(lambda: socket.create_server((address, port), family=family))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection:
                    connection.sendall(b'"direct"\n')

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()


class Server:
    """`intercepting_server.py` as a process in a namespace."""

    def __init__(self, namespace: Namespace, process: subprocess.Popen[str]) -> None:
        self.namespace, self.process = namespace, process

    def tell(self, command: str, **arguments: Any) -> Any:
        """Send one command; its answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"command": command, **arguments}) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.stderr and self.process.stderr.read()
        return json.loads(line)

    def apply(self, addresses: list[str], ports: dict[int, int], **arguments: Any) -> Any:
        return self.tell("apply", addresses=addresses, ports=ports, **arguments)

    def end(self, how: signal.Signals) -> str:
        """Send a signal and wait; what it wrote to its log."""
        self.process.send_signal(how)
        return self.process.communicate(timeout=15)[1]


@contextlib.contextmanager
def server(namespace: Namespace, **settings: Any) -> Iterator[Server]:
    """Run an intercepting server; by default it is ready when this returns."""
    process = subprocess.Popen(
        ["ip", "netns", "exec", namespace.name, sys.executable,
         str(Path(__file__).with_name("intercepting_server.py")), json.dumps(settings)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield Server(namespace, process)
    finally:
        process.kill()
        process.communicate()
