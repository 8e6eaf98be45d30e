"""Many agents in one process: `python -m bench.light_agents`, until its stdin ends.

Each has a real TCP connection, TLS 1.3 with a certificate of its own, and this project's own protocol code
(`tunnel_wire`); it answers hello and PING, dials again after a cut with the agent's back-off, and carries no
streams. What the server holds for it is what it holds for an agent in a process of its own. They share a key:
making thousands is not what is measured.

Whenever all are linked it prints a line of JSON: at which times (the monotonic clock) the first was dialled,
and a half, 99 % and the last of them were linked.
"""

import argparse
import heapq
import json
import select
import socket
import ssl
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bench.loads.client import percentiles
from certs.authority import Authority
from certs.files import StateDirectory
from certs.requests import key_pem, new_key
from tunnel_daemon.backoff import full_jitter
from tunnel_server.heap import set_survivors_aside
from tunnel_wire.answerer import AnswererConnection
from tunnel_wire.connection import ConnectionFailed
from tunnel_wire.events import HelloReceived
from tunnel_wire.flow import Budget
from tunnel_wire.hello import Hello
from tunnel_wire.session import Session
from tunnel_wire.tls import TlsEnded, TlsPump, strict_context

BACKOFF_S = (1.0, 60.0)  # the agent's defaults
LOOK_S = 0.5  # between two looks at the clocks of all connections
CONNECT_S = 15.0  # for TCP, TLS and hello; the agent's default
AT_ONCE = 128  # dial and shake hands at once, the first time
RECEIVE = 64 * 1024

_buffer = memoryview(bytearray(RECEIVE))


class LightAgent:
    """One node, and its link if it has one."""

    def __init__(self, number: int, name: str, context: ssl.SSLContext) -> None:
        self.number = number  # its place among the others
        self._name = name
        self.linked = False
        self.dialled_at = 0.0
        self.sock: socket.socket | None = None
        self._context = context
        self._session = Session(budget=Budget(1 << 20))
        self._delays: Iterator[float] | None = None

    def dial(self, address: tuple[str, int], now: float) -> socket.socket:
        """Begin to connect; the socket is to be watched."""
        self.sock = socket.socket()
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.connect_ex(address)
        self.dialled_at = now
        self._tls = TlsPump(self._context, server_hostname=address[0])
        self._connection: AnswererConnection | None = None
        return self.sock

    def began(self, now: float) -> None:
        """TCP is connected, or has failed: the handshake's first bytes. Raises OSError."""
        assert self.sock is not None
        if error := self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(error, "connect")
        self.dialled_at = now
        self._tls.handshake_step()
        self.sock.send(self._tls.ciphertext())

    def readable(self, now: float) -> None:
        """Take what has come, and answer. Raises OSError (also for TLS), TlsEnded, ConnectionFailed."""
        assert self.sock is not None
        size = self.sock.recv_into(_buffer)
        if not size:
            raise ConnectionResetError("cut")
        self._tls.feed(_buffer[:size])
        if self._connection is None:
            done = self._tls.handshake_step()
            self.sock.send(self._tls.ciphertext())
            if not done:
                return
            hello = Hello("bench", session=self._session.identifier, node=self._name)
            self._connection = AnswererConnection(self._session, hello, now=now)
        while size := self._tls.read_into(_buffer):
            for event in self._connection.receive(_buffer[:size], now):
                if isinstance(event, HelloReceived):
                    self.linked, self._delays = True, None
        self._flush()

    def tick(self, now: float) -> None:
        """Do what is due. Raises as `readable`."""
        if self._connection is not None and self._connection.deadline() <= now:
            self._connection.tick(now)
            self._flush()
        if not self.linked and now > self.dialled_at + CONNECT_S:
            raise TimeoutError("no link in time")

    def lost(self) -> float:
        """The link, or the try, is over; seconds until the next."""
        assert self.sock is not None
        self.sock.close()
        self.sock, self.linked, self._connection = None, False, None
        self._delays = self._delays or full_jitter(*BACKOFF_S)
        return next(self._delays)

    def _flush(self) -> None:
        assert self._connection is not None
        assert self.sock is not None
        if out := self._connection.take(0):
            self._tls.write(out, sum(map(len, out)))
        if ciphertext := self._tls.ciphertext():
            self.sock.send(ciphertext)  # a few dozen bytes: the kernel takes them


class Crowd:
    """All of them, on one epoll."""

    def __init__(self, agents: list[LightAgent], address: tuple[str, int]) -> None:
        now = time.monotonic()
        self._agents = agents
        self._address = address
        self._by_fd: dict[int, LightAgent] = {}
        self._first = deque(agents)
        self._due: list[tuple[float, int]] = []
        self._began = now
        self._next_look = now
        self._linked_at: dict[LightAgent, float] = {}
        self._poll = select.epoll()
        self._poll.register(sys.stdin, select.EPOLLIN)

    def run(self) -> None:
        """Until stdin ends."""
        while True:
            due = min(self._due[0][0] if self._due else self._next_look, self._next_look)
            events = self._poll.poll(max(0.0, due - time.monotonic()))
            now = time.monotonic()
            for fd, event in events:
                if fd == sys.stdin.fileno():
                    return
                self._serve(self._by_fd[fd], event, now)
            while self._first and len(self._by_fd) - len(self._linked_at) < AT_ONCE:
                self._dial(self._first.popleft(), now)
            while self._due and self._due[0][0] <= now:
                self._dial(self._agents[heapq.heappop(self._due)[1]], now)
            if now >= self._next_look:
                self._next_look = now + LOOK_S
                for agent in list(self._by_fd.values()):
                    self._guard(agent, agent.tick, now)

    def _dial(self, agent: LightAgent, now: float) -> None:
        fd = agent.dial(self._address, now).fileno()
        self._by_fd[fd] = agent
        self._poll.register(fd, select.EPOLLOUT)

    def _serve(self, agent: LightAgent, event: int, now: float) -> None:
        was_linked = agent.linked
        assert agent.sock is not None
        if event & select.EPOLLOUT:
            self._poll.modify(agent.sock, select.EPOLLIN)
            self._guard(agent, agent.began, now)
        else:
            self._guard(agent, agent.readable, now)
        if agent.linked and not was_linked:
            self._linked_at[agent] = now
            if len(self._linked_at) == len(self._agents):
                half, most, last = percentiles(list(self._linked_at.values()), 50, 99, 100)
                told = {"began": self._began, "half": half, "most": most, "last": last}
                print(json.dumps(told), flush=True)

    def _guard(self, agent: LightAgent, action: Callable[[float], None], now: float) -> None:
        """Do it; if that ends the link, dial again later."""
        try:
            action(now)
        except (OSError, TlsEnded, ConnectionFailed):
            assert agent.sock is not None
            del self._by_fd[agent.sock.fileno()]
            self._linked_at.pop(agent, None)
            heapq.heappush(self._due, (now + agent.lost(), agent.number))


def make_agents(state: Path, first: int, count: int) -> list[LightAgent]:
    """Agents whose certificates the authority of the server's state directory has just signed."""
    names = [f"light-{first + number}" for number in range(count)]
    return [LightAgent(number, *pair) for number, pair in enumerate(node_contexts(state, names))]


def node_contexts(state: Path, names: Sequence[str]) -> Iterator[tuple[str, ssl.SSLContext]]:
    """Each name, and TLS with a certificate for it that the same authority has just signed."""
    authority, key = Authority.load(StateDirectory(state)), new_key()
    with tempfile.NamedTemporaryFile("w+") as file:  # load_cert_chain takes nothing but a file
        for name in names:
            certificate = authority.issue_node(key.public_key(), name, [])
            file.seek(0)
            file.truncate()
            file.write(key_pem(key).decode() + certificate)
            file.flush()
            context = strict_context(server_side=False)
            context.set_alpn_protocols(["tunnel/1"])
            context.load_cert_chain(file.name)
            context.load_verify_locations(cadata=authority.pem)
            yield name, context


def main() -> None:
    """Make them, and keep them linked."""
    parser = argparse.ArgumentParser()
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--state", type=Path, required=True, help="the server's state directory")
    parser.add_argument("--first", type=int, default=0, help="number in the name of the first")
    asked = parser.parse_args()
    agents = make_agents(asked.state, asked.first, asked.count)
    set_survivors_aside()
    Crowd(agents, (asked.host, asked.port)).run()


if __name__ == "__main__":
    main()
