"""Sockets of this process that stand in a namespace, and ways to break the network, silently or not."""

import contextlib
import ctypes
import itertools
import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from tunnelctl.demo.topology import ROUTER, Host

_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000

_count = itertools.count()

T = TypeVar("T")


def inside(host: Host, action: Callable[[], T]) -> T:
    """What `action` returns or raises, done in the host's network; sockets it makes stay there."""

    def enter_and_act() -> T:
        with Path("/run/netns", host.namespace).open() as namespace:
            if _LIBC.setns(namespace.fileno(), _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), host.namespace)
        return action()

    # A thread of its own, which never comes back from that network: it ends there.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(enter_and_act).result()


def dial(host: Host, address: tuple[str, int], *, timeout: float = 30) -> socket.socket:
    """A TCP connection from `host`, as any of its programs makes one."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET

    def connect() -> socket.socket:
        sock = socket.socket(family)
        try:
            sock.settimeout(timeout)
            sock.connect(address)
        except BaseException:
            sock.close()
            raise
        return sock

    return inside(host, connect)


def listen(host: Host, address: tuple[str, int], *, backlog: int = 128) -> socket.socket:
    """A listening TCP socket on `host`; nobody accepts unless the test does, for half a minute at most."""
    listener = inside(host, lambda: socket.create_server(address, backlog=backlog))
    listener.settimeout(30)
    return listener


def accept(listener: socket.socket, *, timeout: float = 30) -> socket.socket:
    """The next connection, whose every operation waits for `timeout` seconds at most."""
    sock = listener.accept()[0]
    sock.settimeout(timeout)
    return sock


def read_to_end(sock: socket.socket) -> bytes:
    """All that comes up to the end of file; ConnectionResetError if that is how it ends."""
    return b"".join(iter(lambda: sock.recv(1 << 16), b""))


@contextlib.contextmanager
def dropping(host: Host, matches: str = "", *, hook: str = "forward") -> Iterator[None]:
    """Have `host` drop the packets that match, without a word: a table of its own, by the nft program."""
    table = f"blackhole-{next(_count)}"
    chain = f"type filter hook {hook} priority -10\n{matches} drop\n"
    made = host.run(["nft", "-f", "-"], stdin=f"table inet {table} {{\nchain c {{\n{chain}}}\n}}\n")
    assert made.returncode == 0, made.stderr
    try:
        yield
    finally:
        host.run(["nft", f"delete table inet {table}"])


def abort(host: Host, port: int) -> None:
    """End the host's TCP connections to `port`, at both ends, as the kernel does (ss(8), -K)."""
    done = host.run(["ss", "-K", "dport", "=", f":{port}"])
    assert "ESTAB" in done.stdout, done.stderr


def rebind(nat: Host, old: str, new: str) -> None:
    """Have a router of the topology forget its connections: its public address is another one."""
    for command in (
        "sysctl -q net.ipv4.conf.internet.promote_secondaries=1",
        f"ip address add {new}/24 dev internet",
        f"ip address del {old}/24 dev internet",
        f"ip route replace default via {ROUTER}",
    ):
        done = nat.run(command.split())
        assert done.returncode == 0, f"{command}: {done.stderr}"
