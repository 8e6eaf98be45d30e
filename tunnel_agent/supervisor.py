"""Keeps the agent linked: dials, carries, waits, and again, for as long as the process lives.

Nothing on the far side ends it: an absent server, dead DNS, a proxy in a bad mood or a clock that is years
off are each a reason to try again later, said in the log once and then ever more rarely.

When the certificate has been renewed, a second link is made with the new one; when the server says that it
goes, one to its successor, or to another server. New streams are opened on the newest link; the old one stays
until the last of its streams has ended, its certificate has, or its server goes.
"""

from __future__ import annotations

import logging
import random
import time
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, NoReturn

import trio

from tunnel_agent.connect import ConnectError, connect
from tunnel_agent.credentials import Credentials, CredentialsError, load_credentials
from tunnel_agent.proxy import choose_proxy
from tunnel_agent.tls_errors import explain_end, is_refused
from tunnel_daemon.backoff import full_jitter
from tunnel_daemon.failure_log import FailureLog
from tunnel_wire.answerer import AnswererConnection
from tunnel_wire.flow import Budget
from tunnel_wire.hello import RESUME, DrainReason, Hello
from tunnel_wire.limits import WireLimits
from tunnel_wire.link import Link, LinkEnded
from tunnel_wire.session import Session
from tunnel_wire.stream import IncomingStream

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator, Mapping

    from tunnel_agent.config import AgentConfig
    from tunnel_agent.dialer import Dialer
    from tunnel_agent.endpoint import Endpoint
    from tunnel_agent.status import AgentStatus
    from tunnel_wire.tls import TlsPump

log = logging.getLogger(__name__)

_WELCOME = 1.0
"""Seconds that a link has lived at least, for another one to be made at once when its server goes: one that
sends everybody away must not be dialled on and on."""
_HANDOVER = 5.0
"""Seconds that an old link stays at least beside a new one, so that no call falls between the two."""
_RESUMING = 1.0
"""Seconds between the starts of two tries to make a link while streams wait for one ..."""
_RESUMING_PATIENCE = 3.0
"""... and that each may take."""
_IDLE_CHECK = 1.0
"""Seconds between two looks whether an old link still carries something."""

_dialling = attrgetter("servers", "proxy", "backoff_min", "backoff_max", "duplicate_delay")
"""Of a configuration: whom to dial, and when."""
_LEAVING = {DrainReason.SHUTDOWN, DrainReason.REPLACED}
"""The link will end, and another one is wanted before it does."""
_USELESS = {DrainReason.REVOKED, DrainReason.EXPIRED}
_REFUSED_AS_A_WHOLE = {DrainReason.DUPLICATE, DrainReason.REVOKED}


@dataclass(slots=True)
class _Outcome:
    """How one round of dialling ended: what the next delay depends on."""

    lived: float = 0.0
    """Seconds between the server's hello and the link's end."""
    refused: bool = False
    """The server wants nothing of us for now: another machine has this certificate, or it is revoked."""
    superseded: bool = False
    """The link still lives, but there is a newer certificate, or its server goes."""


@dataclass(slots=True, eq=False)
class _Carried:
    """A link of ours, and what has become of it."""

    link: Link
    index: int
    server: Endpoint
    serial: str
    """Of the certificate that it was made with."""
    outcome: _Outcome
    up_at: float | None = None
    """trio's clock at the server's hello."""
    retiring: bool = False
    leaving: trio.Event = field(default_factory=trio.Event)
    """The server has said that this link will end."""
    ended: trio.Event = field(default_factory=trio.Event)


class Supervisor:
    """One session, and the links that carry it. Links to several replicas would be several of these."""

    def __init__(
        self,
        config: AgentConfig,
        dialer: Dialer,
        status: AgentStatus,
        environment: Mapping[str, str],
        uniform: Callable[[float, float], float] = random.uniform,
        *,
        on_refused: Callable[[str, str], None] = lambda _serial, _why: None,
    ) -> None:
        """Take `on_refused`: called with the serial of a certificate that no server takes again, and why."""
        self._on_refused = on_refused
        self._config = config
        self._dialer = dialer
        self._status = status
        self._environment = environment
        self._uniform = uniform
        self._failures = FailureLog(log)
        self._renewed = trio.Event()
        self._changed = trio.Event()
        """How to dial has changed since the last delay began."""
        self._links: dict[int, _Carried] = {}
        self._session = Session(
            budget=Budget(config.memory_budget),
            limits=WireLimits(max_streams=config.max_streams),
            first_key=1 << 63,  # for streams of stock peers, which bring none: apart from the server's keys
        )

    def renewed(self) -> None:
        """There is a new certificate on disk: put it to use at once, without ending anything."""
        self._renewed.set()
        self._changed.set()

    def configure(self, config: AgentConfig) -> None:
        """Obey this from now on. Links stay; who waits, and would dial otherwise now, dials at once."""
        before, self._config = self._config, config
        self._session.budget.total = config.memory_budget
        if _dialling(config) != _dialling(before):
            self._changed.set()

    async def run(self) -> NoReturn:
        """Stay linked until cancelled; cancelled, all links are closed at once."""
        async with trio.open_nursery() as nursery:
            await self._run(nursery)

    async def _run(self, nursery: trio.Nursery) -> NoReturn:
        delays = self._delays()
        while True:
            if self._renewed.is_set():
                self._renewed = trio.Event()
            began = trio.current_time()
            outcome = await self._round(nursery)
            if outcome.lived >= self._config.useful_after:
                delays = self._delays()
                self._failures.over()
            if self._is_to_go_on(outcome):
                delays = self._delays()
                continue
            if self._changed.is_set():
                self._changed, delays = trio.Event(), self._delays()
            delay = next(delays)
            if self._session.suspended:
                spent = 0.0 if outcome.lived else trio.current_time() - began
                delay = min(delay, max(0.0, _RESUMING - spent))
            if outcome.refused:
                delay += self._config.duplicate_delay
            log.debug("dialling again in %.1f s", delay)
            with trio.move_on_after(delay):
                await self._changed.wait()

    def _delays(self) -> Iterator[float]:
        return full_jitter(self._config.backoff_min, self._config.backoff_max, self._uniform)

    async def _round(self, nursery: trio.Nursery) -> _Outcome:
        """Try each server once; stay with the first link that is of use, until it ends or is superseded."""
        outcome = _Outcome()
        try:
            credentials = load_credentials(self._config.state_dir)
        except CredentialsError as error:
            self._failed("credentials", str(error))
            return _Outcome()
        self._status.node = credentials.identity.name
        self._dialer.node_addresses = credentials.addresses
        if problem := credentials.clock_problem(time.time()):
            # Tried nevertheless: it is the server's clock that decides.
            self._failed("clock", problem)
        for server in self._config.servers or credentials.servers:
            patience = self._config.connect_timeout
            if self._session.suspended:
                patience = min(patience, _RESUMING_PATIENCE)
            try:
                proxy = choose_proxy(self._config.proxy.text or credentials.proxy, self._environment, server)
                sock, pump = await connect(server, proxy, credentials, patience)
            except ValueError as error:
                self._failed("proxy", str(error))
            except ConnectError as error:
                self._failed(f"{server}:{error.kind}", str(error))
            else:
                outcome = await self._stay(self._link(sock, pump, server, credentials), nursery)
                useful = outcome.lived >= self._config.useful_after
                if useful or outcome.refused or self._is_to_go_on(outcome):
                    return outcome
                # One that accepts and then says nothing, or drains at once, must not hide the next.
        return outcome

    def _is_to_go_on(self, outcome: _Outcome) -> bool:
        """Whether another link is to be made beside this one, at once."""
        return outcome.superseded and (self._renewed.is_set() or outcome.lived >= _WELCOME)

    async def _stay(self, carried: _Carried, nursery: trio.Nursery) -> _Outcome:
        """Have `nursery` carry the link; wait until it has ended, or another one is wanted beside it."""
        nursery.start_soon(self._carry, carried)
        async with trio.open_nursery() as waiting:

            async def wait(event: trio.Event) -> None:
                await event.wait()
                waiting.cancel_scope.cancel()

            waiting.start_soon(wait, carried.ended)
            waiting.start_soon(wait, self._renewed)
            waiting.start_soon(wait, carried.leaving)
        outcome = carried.outcome
        outcome.superseded = not carried.ended.is_set()
        if outcome.superseded:
            if carried.up_at is not None:
                outcome.lived = trio.current_time() - carried.up_at
            nursery.start_soon(self._retire, carried)
        return outcome

    def _link(
        self, sock: socket.socket, pump: TlsPump, server: Endpoint, credentials: Credentials
    ) -> _Carried:
        name = credentials.identity.name
        index = next(each for each in range(len(self._links) + 1) if each not in self._links)
        version, session = self._status.version, self._session.identifier
        living = {each.index for each in self._links.values() if not each.link.ended}
        hello = Hello(
            version,
            session=session,
            node=name,
            link=index,
            capabilities=frozenset({RESUME}),
            time=max(0, int(time.time())),
            links=frozenset({*living, index}),
        )
        connection = AnswererConnection(self._session, hello, now=trio.current_time())
        outcome = _Outcome()

        def on_hello(said: Hello | None) -> None:
            carried.up_at = trio.current_time()
            self._status.linked(str(server))
            log.info(
                "linked to %s as %s", server, name, extra={"server_version": said.version if said else ""}
            )

        def on_drain(reason: str, detail: str) -> None:
            outcome.refused = DrainReason.read(reason) in _REFUSED_AS_A_WHOLE
            if DrainReason.read(reason) in _USELESS:
                self._on_refused(credentials.serial, f"the server refuses it: {detail or reason}")
            self._drained(server, name, DrainReason.read(reason), detail)
            if DrainReason.read(reason) in _LEAVING:
                carried.leaving.set()

        link = Link(
            sock,
            pump,
            connection,
            on_hello=on_hello,
            on_drain=on_drain,
            on_request=lambda stream: self._dialer.on_request(IncomingStream(connection, stream)),
        )
        carried = self._links[index] = _Carried(link, index, server, credentials.serial, outcome)
        return carried

    async def _carry(self, carried: _Carried) -> None:
        server, outcome = carried.server, carried.outcome
        try:
            await carried.link.run()
        except LinkEnded as ended:
            if carried.retiring:
                log.info("%s: the former link ended: %s", server, ended)
            elif carried.up_at is not None:
                outcome.lived = trio.current_time() - carried.up_at
                self._failed(
                    f"{server}:ended", f"{server}: the link ended after {outcome.lived:.0f} s: {ended}"
                )
            else:
                text = explain_end(str(ended))
                if is_refused(str(ended)):
                    self._on_refused(carried.serial, text)
                self._failed(f"{server}:refused", f"{server}: {text}")
        finally:
            del self._links[carried.index]
            if not self._links:
                self._status.unlinked()
            carried.ended.set()

    async def _retire(self, carried: _Carried) -> None:
        """Close the link once a newer one is up and it carries nothing.

        The server ends it at the latest when its certificate does, or when it goes itself.
        """
        carried.retiring = True
        while not carried.ended.is_set():
            newer_since = max(
                (each.up_at or 0.0 for each in self._links.values() if not each.retiring), default=0.0
            )
            if newer_since and trio.current_time() >= newer_since + _HANDOVER and not self._carries(carried):
                carried.link.close("a newer link has taken over")
                return
            with trio.move_on_after(_IDLE_CHECK):
                await carried.ended.wait()

    def _carries(self, carried: _Carried) -> bool:
        connection = carried.link.connection
        return any(stream.connection is connection for stream in self._session.streams.values())

    def _drained(self, server: Endpoint, name: str, reason: DrainReason, detail: str) -> None:
        said = f" ({detail})" if detail else ""
        match reason:
            case DrainReason.DUPLICATE:
                log.error(
                    "%s: another machine is linked with the certificate of %s%s: a cloned image? "
                    "Join one of them again, with a token of its own (`tunnelctl token create`)",
                    server,
                    name,
                    said,
                )
            case DrainReason.REVOKED:
                log.error(
                    "%s: the certificate of %s was revoked%s: join again, if that is wanted",
                    server,
                    name,
                    said,
                )
            case DrainReason.EXPIRED:
                log.error(
                    "%s: the certificate of %s is not valid by the server's clock%s: if that clock is right, "
                    "join again (`tunnel-agent join`)",
                    server,
                    name,
                    said,
                )
            case _:
                log.info("%s retires this link: %s%s", server, reason.value, said)

    def _failed(self, kind: str, text: str) -> None:
        self._status.failed(text)
        self._failures.failed(kind, text)
