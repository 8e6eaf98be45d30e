"""From a list of servers to one link that has said hello.

One try after the other; but while streams wait for a link, one starts each second, whatever became of those
before, and the first that has said hello wins. A cut ends at some moment, and a try that began before is
still waiting to repeat its SYN, or its proxy for the rest of a timeout. Most of them are given up after 3 s.
One of them has the whole `connect-timeout`, as without streams that wait: on a slow path it is the one that
comes through.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from tunnel_agent.connect import ConnectError, connect
from tunnel_agent.proxy import choose_proxy

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

    from tunnel_agent.config import AgentConfig
    from tunnel_agent.credentials import Credentials
    from tunnel_agent.endpoint import Endpoint
    from tunnel_agent.home import Home
    from tunnel_agent.outbound_link import OutboundLink
    from tunnel_wire.hello import Hello
    from tunnel_wire.session import Session
    from tunnel_wire.tls import TlsPump

    Admits = Callable[[OutboundLink, Hello], bool]
    Make = Callable[[socket.socket, TlsPump, Endpoint, "Round", Admits], OutboundLink]

_EVERY = 1.0
"""Seconds between the starts of two tries at most, while streams wait."""
_JITTER = 0.2
"""Part of that by which it may be less: thousands of agents lose a server at the same moment."""
_PATIENCE = 3.0
"""Seconds for TCP, proxy and TLS, and once more for hello, of a try that others run beside."""


@dataclass(slots=True)
class Round:
    """The servers that are left to be tried, and what with."""

    credentials: Credentials
    renewed: trio.Event
    """Set when there are newer ones."""
    left: deque[Endpoint]


class _Race:
    """Tries that run at once, and which of them has won."""

    def __init__(self) -> None:
        self.winner: OutboundLink | None = None
        self.running: Counter[Endpoint] = Counter()
        """Tries by server."""
        self.patient: set[Endpoint] = set()
        """Those of which a try has the whole `connect-timeout`."""
        self.changed = trio.Event()

    def note(self) -> None:
        """A try has ended, or won."""
        self.changed.set()
        self.changed = trio.Event()


class Dialling:
    """Makes links of one session, one at a time."""

    def __init__(
        self,
        config: AgentConfig,
        environment: Mapping[str, str],
        uniform: Callable[[float, float], float],
        *,
        session: Session,
        home: Home,
        credentials: Callable[[], tuple[Credentials, trio.Event] | None],
        make: Make,
        failed: Callable[[str, str], None],
    ) -> None:
        """Take `make`: makes a link, which asks at a hello whether it is admitted, and has it run;
        `credentials`: reads them anew, with an event for newer ones, or None if there are none that can be
        used; `failed`: called with the kind of a failure, and its text.
        """
        self.config = config
        """May be replaced at any time."""
        self._environment = environment
        self._uniform = uniform
        self._session = session
        self._home = home
        self._credentials = credentials
        self._make = make
        self._failed = failed
        self._next = -math.inf
        """When the next of overlapping tries is due."""
        self._turn = 0
        self._one_at_a_time = trio.Lock()

    def round(self) -> Round | None:
        """All servers, in the order in which to try them; None if there is nothing to try with."""
        read = self._credentials()
        if read is None:
            self._next = trio.current_time() + _EVERY
            return None
        credentials, renewed = read
        servers = self._home.order(self.config.servers or credentials.servers)
        return Round(credentials, renewed, deque(servers))

    def pause(self) -> float:
        """Seconds to wait for at most before the next round, while streams wait."""
        return max(0.0, self._next - trio.current_time())

    async def link(self, tried: Round) -> OutboundLink | None:
        """Try the servers that are left of this round; those that were tried are left no more.

        Gives the first link that is up; None when no server is left. While streams wait it goes on with all
        servers that are configured, until there is a link. Cancelled, no try is left behind.
        """
        async with self._one_at_a_time:
            race = _Race()
            async with trio.open_nursery() as nursery:
                while race.winner is None:
                    if self._session.suspended.awaited():
                        self._start_due(race, nursery)
                    elif not race.running.total():
                        while tried.left and self._home.excludes(tried.left[0]):
                            tried.left.popleft()  # there was no link yet when the round began
                        if not tried.left:
                            break
                        self._start(race, tried.left.popleft(), tried, nursery)
                    # Streams may begin to wait at any time.
                    with trio.move_on_after(self.pause() if self._session.suspended.awaited() else _EVERY):
                        await race.changed.wait()
                nursery.cancel_scope.cancel()
            return race.winner

    def _start_due(self, race: _Race, nursery: trio.Nursery) -> None:
        """Streams wait: start the tries that are due."""
        if self.pause():
            return
        self._next = trio.current_time() + _EVERY * self._uniform(1 - _JITTER, 1)
        fresh = self.round()
        if fresh is None or not fresh.left:
            return
        servers = list(fresh.left)
        if self._home.server is None:
            # Any of them is as good as the others.
            self._turn += 1
            self._start(race, servers[self._turn % len(servers)], fresh, nursery)
            return
        self._start(race, servers[0], fresh, nursery)
        if not self._home.is_awaited:
            for other in servers[1:]:
                if not race.running[other]:
                    self._start(race, other, fresh, nursery)

    def _start(self, race: _Race, server: Endpoint, tried: Round, nursery: trio.Nursery) -> None:
        race.running[server] += 1
        nursery.start_soon(self._try, race, server, tried)

    async def _try(self, race: _Race, server: Endpoint, tried: Round) -> None:
        """One server: from its name to its hello."""
        patience = self.config.connect_timeout
        if is_patient := server not in race.patient:
            race.patient.add(server)
        else:
            patience = min(patience, _PATIENCE)
        try:
            proxy = choose_proxy(self.config.proxy.text or tried.credentials.proxy, self._environment, server)
            sock, pump = await connect(server, proxy, tried.credentials, patience)
        except ValueError as error:
            self._failed("proxy", str(error))
        except ConnectError as error:
            self._failed(f"{server}:{error.kind}", str(error))
        else:
            made = self._make(
                sock, pump, server, tried, lambda made, hello: self._admits(race, made, hello.instance)
            )
            await self._wait_for_hello(race, made, patience)
        finally:
            race.running[server] -= 1
            if is_patient:
                race.patient.discard(server)
            race.note()

    async def _wait_for_hello(self, race: _Race, made: OutboundLink, patience: float) -> None:
        try:
            with trio.move_on_after(patience):
                await made.known.wait()
                return
            self._failed(f"{made.server}:silent", f"{made.server}: no hello within {patience:g} s")
        finally:
            if race.winner is not made:
                made.give_up("another try was faster, or it took too long")

    def _admits(self, race: _Race, made: OutboundLink, instance: str) -> bool:
        """Whether this link is the one. Synchronous: no other answers a hello after it."""
        if race.winner is not None or made.link.ended:
            return False
        home = self._home.server
        if not self._home.admits(made.server, instance):
            self._failed(
                f"{made.server}:elsewhere",
                f"{made.server} answers, but what is open through {home} waits for that one, "
                f"{self._home.failover_delay:g} s at most",
            )
            made.give_up("the session is with another server")
            return False
        race.winner = made
        race.note()
        return True
