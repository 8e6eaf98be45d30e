"""Many agents in one process: `python -m bench.light_agents`, until its stdin ends.

Each has a real TCP connection, TLS 1.3 with a certificate of its own, and this project's own protocol code
(`tunnel_wire`); it answers hello and PING, dials again after a cut with the agent's back-off, at once and
beside its link when its server goes, and carries no streams. What the server holds for it is what it holds
for an agent in a process of its own. They share a key: making thousands is not what is measured.

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
from tunnel_wire.events import DrainReceived, HelloReceived
from tunnel_wire.flow import Budget
from tunnel_wire.hello import DrainReason, Hello
from tunnel_wire.session import Session
from tunnel_wire.tls import TlsEnded, TlsPump, strict_context

BACKOFF_S = (1.0, 60.0)  # the agent's defaults
LOOK_S = 0.5  # between two looks at the clocks of all connections
CONNECT_S = 15.0  # for TCP, TLS and hello; the agent's default
HANDOVER_S = 5.0  # that a link stays beside the one that takes its place; the agent's
AT_ONCE = 128  # dial and shake hands at once, the first time
RECEIVE = 64 * 1024

_buffer = memoryview(bytearray(RECEIVE))


class LightLink:
    """One connection of an agent, from its dial to its end."""

    def __init__(self, agent: "LightAgent", address: tuple[str, int], now: float) -> None:
        """Begin to connect; the socket is to be watched."""
        self.agent = agent
        self.linked = False
        self.replaced_at: float | None = None  # when its server said that it goes
        self.dialled_at = now
        self.sock = socket.socket()
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.connect_ex(address)
        self._tls = TlsPump(agent.context, server_hostname=address[0])
        self._connection: AnswererConnection | None = None

    def began(self, now: float) -> None:
        """TCP is connected, or has failed: the handshake's first bytes. Raises OSError."""
        if error := self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(error, "connect")
        self.dialled_at = now
        self._tls.handshake_step()
        self.sock.send(self._tls.ciphertext())

    def readable(self, now: float) -> None:
        """Take what has come, and answer. Raises OSError (also for TLS), TlsEnded, ConnectionFailed."""
        size = self.sock.recv_into(_buffer)
        if not size:
            raise ConnectionResetError("cut")
        self._tls.feed(_buffer[:size])
        if self._connection is None:
            done = self._tls.handshake_step()
            self.sock.send(self._tls.ciphertext())
            if not done:
                return
            hello = Hello("bench", session=self.agent.session.identifier, node=self.agent.name)
            self._connection = AnswererConnection(self.agent.session, hello, now=now)
        while size := self._tls.read_into(_buffer):
            for event in self._connection.receive(_buffer[:size], now):
                if isinstance(event, HelloReceived):
                    self.linked = True
                elif isinstance(event, DrainReceived) and event.reason == DrainReason.SHUTDOWN.value:
                    self.replaced_at = now
        self._flush()

    def tick(self, now: float) -> None:
        """Do what is due. Raises as `readable`."""
        if self._connection is not None and self._connection.deadline() <= now:
            self._connection.tick(now)
            self._flush()
        if not self.linked and now > self.dialled_at + CONNECT_S:
            raise TimeoutError("no link in time")
        if self.replaced_at is not None and now > self.replaced_at + HANDOVER_S:
            raise TimeoutError("it carries nothing")

    def _flush(self) -> None:
        assert self._connection is not None
        if out := self._connection.take(0):
            self._tls.write(out, sum(map(len, out)))
        if ciphertext := self._tls.ciphertext():
            self.sock.send(ciphertext)  # a few dozen bytes: the kernel takes them


class LightAgent:
    """One node: what its links have in common."""

    def __init__(self, number: int, name: str, context: ssl.SSLContext) -> None:
        self.number = number  # its place among the others
        self.name = name
        self.context = context
        self.session = Session(budget=Budget(1 << 20))
        self.newest: LightLink | None = None
        self._delays: Iterator[float] | None = None

    def found(self) -> None:
        """It is linked."""
        self._delays = None

    def lost(self) -> float:
        """Its link, or its try, is over; seconds until the next."""
        self._delays = self._delays or full_jitter(*BACKOFF_S)
        return next(self._delays)


class Crowd:
    """All of them, on one epoll."""

    def __init__(self, agents: list[LightAgent], address: tuple[str, int]) -> None:
        now = time.monotonic()
        self._agents = agents
        self._address = address
        self._by_fd: dict[int, LightLink] = {}
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
                for link in list(self._by_fd.values()):
                    self._guard(link, link.tick, now)

    def _dial(self, agent: LightAgent, now: float) -> None:
        link = agent.newest = LightLink(agent, self._address, now)
        self._by_fd[link.sock.fileno()] = link
        self._poll.register(link.sock, select.EPOLLOUT)

    def _serve(self, link: LightLink, event: int, now: float) -> None:
        was_linked, was_replaced = link.linked, link.replaced_at is not None
        if event & select.EPOLLOUT:
            self._poll.modify(link.sock, select.EPOLLIN)
            self._guard(link, link.began, now)
        else:
            self._guard(link, link.readable, now)
        agent = link.agent
        if link.linked and not was_linked:
            agent.found()
            self._linked_at[agent] = now
            if len(self._linked_at) == len(self._agents):
                half, most, last = percentiles(list(self._linked_at.values()), 50, 99, 100)
                told = {"began": self._began, "half": half, "most": most, "last": last}
                print(json.dumps(told), flush=True)
        if link.replaced_at is not None and not was_replaced and agent.newest is link:
            self._linked_at.pop(agent, None)
            self._dial(agent, now)  # the link goes on beside it

    def _guard(self, link: LightLink, action: Callable[[float], None], now: float) -> None:
        """Do it; if that ends the link, and there is no newer one, dial again later."""
        try:
            action(now)
        except (OSError, TlsEnded, ConnectionFailed):
            agent = link.agent
            del self._by_fd[link.sock.fileno()]
            link.sock.close()
            if agent.newest is link:
                agent.newest = None
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
