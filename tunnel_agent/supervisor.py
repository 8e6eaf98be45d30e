"""Keeps the agent linked: dials, carries, waits, and again, for as long as the process lives.

Nothing on the far side ends it: an absent server, dead DNS, a proxy in a bad mood or a clock that is years
off are each a reason to try again later, said in the log once and then ever more rarely.
"""

from __future__ import annotations

import logging
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

import trio

from tunnel_agent.backoff import full_jitter
from tunnel_agent.connect import ConnectError, connect
from tunnel_agent.credentials import Credentials, CredentialsError, load_credentials
from tunnel_agent.failures import FailureLog
from tunnel_agent.proxy import choose_proxy
from tunnel_agent.tls_errors import explain_end
from tunnel_wire.answerer import AnswererConnection
from tunnel_wire.flow import Budget
from tunnel_wire.hello import DrainReason, Hello
from tunnel_wire.limits import WireLimits
from tunnel_wire.link import Link, LinkEnded
from tunnel_wire.session import Session
from tunnel_wire.stream import IncomingStream

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

    from tunnel_agent.config import AgentConfig
    from tunnel_agent.dialer import Dialer
    from tunnel_agent.endpoint import Endpoint
    from tunnel_agent.status import AgentStatus
    from tunnel_wire.tls import TlsPump

log = logging.getLogger(__name__)

_REFUSED_AS_A_WHOLE = {DrainReason.DUPLICATE, DrainReason.REVOKED}


@dataclass(slots=True)
class _Outcome:
    """How one round of dialling ended: what the next delay depends on."""

    lived: float = 0.0
    """Seconds between the server's hello and the link's end."""
    refused: bool = False
    """The server wants nothing of us for now: another machine has this certificate, or it is revoked."""


class Supervisor:
    """One session, and the link that carries it. Links to several replicas would be several of these."""

    def __init__(
        self,
        config: AgentConfig,
        dialer: Dialer,
        status: AgentStatus,
        environment: Mapping[str, str],
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._config = config
        self._dialer = dialer
        self._status = status
        self._environment = environment
        self._uniform = uniform
        self._failures = FailureLog(log)
        self._session = Session(
            budget=Budget(config.memory_budget),
            limits=WireLimits(max_streams=config.max_streams),
            first_key=1 << 63,  # for streams of stock peers, which bring none: apart from the server's keys
        )

    async def run(self) -> NoReturn:
        """Stay linked until cancelled; cancelled, the link is closed at once."""
        config = self._config
        delays = full_jitter(config.backoff_min, config.backoff_max, self._uniform)
        while True:
            outcome = await self._round()
            if outcome.lived >= config.useful_after:
                delays = full_jitter(config.backoff_min, config.backoff_max, self._uniform)
                self._failures.over()
            delay = next(delays)
            if outcome.refused:
                delay += config.duplicate_delay
            log.debug("dialling again in %.1f s", delay)
            await trio.sleep(delay)

    async def _round(self) -> _Outcome:
        """Try each server once; carry the first link that comes about, until it ends."""
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
            try:
                proxy = choose_proxy(self._config.proxy.text, self._environment, server)
                sock, pump = await connect(server, proxy, credentials, self._config.connect_timeout)
            except ValueError as error:
                self._failed("proxy", str(error))
            except ConnectError as error:
                self._failed(f"{server}:{error.kind}", str(error))
            else:
                return await self._carry(sock, pump, server, credentials)
        return _Outcome()

    async def _carry(
        self, sock: socket.socket, pump: TlsPump, server: Endpoint, credentials: Credentials
    ) -> _Outcome:
        name = credentials.identity.name
        hello = Hello(self._status.version, session=self._session.identifier, node=name)
        connection = AnswererConnection(self._session, hello, now=trio.current_time())
        outcome = _Outcome()
        up_at: float | None = None

        def on_hello(said: Hello | None) -> None:
            nonlocal up_at
            up_at = trio.current_time()
            self._status.linked(str(server))
            log.info(
                "linked to %s as %s", server, name, extra={"server_version": said.version if said else ""}
            )

        def on_drain(reason: str, detail: str) -> None:
            outcome.refused = DrainReason.read(reason) in _REFUSED_AS_A_WHOLE
            self._drained(server, name, DrainReason.read(reason), detail)

        link = Link(
            sock,
            pump,
            connection,
            on_hello=on_hello,
            on_drain=on_drain,
            on_request=lambda stream: self._dialer.on_request(IncomingStream(connection, stream)),
        )
        try:
            await link.run()
        except LinkEnded as ended:
            if up_at is not None:
                outcome.lived = trio.current_time() - up_at
                self._failed(
                    f"{server}:ended", f"{server}: the link ended after {outcome.lived:.0f} s: {ended}"
                )
            else:
                self._failed(f"{server}:refused", f"{server}: {explain_end(str(ended))}")
        finally:
            self._status.unlinked()
        return outcome

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
                log.error("%s: the certificate of %s has expired%s: join again", server, name, said)
            case _:
                log.info("%s retires this link: %s%s", server, reason.value, said)

    def _failed(self, kind: str, text: str) -> None:
        self._status.failed(text)
        self._failures.failed(kind, text)
