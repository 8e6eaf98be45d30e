"""One link of the agent's, from the end of its TLS handshake to its own end, and what has become of it."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import trio

from tunnel_daemon.failure_log import FailureLog
from tunnel_wire.answerer import AnswererConnection
from tunnel_wire.hello import OPTIMISTIC, RESUME, DrainReason, Hello
from tunnel_wire.link import Link
from tunnel_wire.stream import IncomingStream

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable

    from tunnel_agent.credentials import Credentials
    from tunnel_agent.endpoint import Endpoint
    from tunnel_wire.session import Session
    from tunnel_wire.tls import TlsPump

log = logging.getLogger(__name__)

_LEAVING = {DrainReason.SHUTDOWN, DrainReason.REPLACED}
"""The link will end, and another one is wanted before it does."""
_USELESS = {DrainReason.REVOKED, DrainReason.EXPIRED}
_REFUSED_AS_A_WHOLE = {DrainReason.DUPLICATE, DrainReason.REVOKED}


class OutboundLink:
    """A link and its state; whoever makes it has its `link` run, and tells when that has ended."""

    def __init__(
        self,
        sock: socket.socket,
        pump: TlsPump,
        server: Endpoint,
        credentials: Credentials,
        *,
        session: Session,
        version: str,
        index: int,
        others: Iterable[int],
        renewed: trio.Event,
        admits: Callable[[OutboundLink, Hello], bool],
        on_up: Callable[[OutboundLink], None],
        on_request: Callable[[IncomingStream], None],
        on_useless: Callable[[str, str], None],
    ) -> None:
        """Take `others`: the indices of the links that live beside it; `renewed`: set when its certificate is
        not the newest any more; `on_useless`: called with its serial, and why no server takes it again.
        """
        self.server = server
        self.node = credentials.identity.name
        self.serial = credentials.serial
        self.index = index
        self.renewed = renewed
        self.up_at: float | None = None
        """trio's clock at the server's hello."""
        self.refused = False
        """The server wants nothing of us for now: another machine has this certificate, or it is revoked."""
        self.given_up = False
        """Closed as a try: another one was faster, or its server is not the one."""
        self.retiring = False
        """Another link takes, or has taken, its place."""
        self.leaving = trio.Event()
        """The server has said that this link will end."""
        self.known = trio.Event()
        """It is up, or has ended."""
        self.ended = trio.Event()
        self._on_up = on_up
        self._on_useless = on_useless
        self._failures = FailureLog(log)
        hello = Hello(
            version,
            session=session.identifier,
            node=self.node,
            link=index,
            capabilities=frozenset({OPTIMISTIC, RESUME}),
            time=max(0, int(time.time())),
            links=frozenset({*others, index}),
        )
        self.connection = AnswererConnection(
            session,
            hello,
            now=trio.current_time(),
            admits=lambda said: admits(self, said),
            on_no_room=self._no_room,
        )
        self.link = Link(
            sock,
            pump,
            self.connection,
            on_hello=self._on_hello,
            on_drain=self._on_drain,
            on_request=lambda stream: on_request(IncomingStream(self.connection, stream)),
        )

    def _no_room(self, why: str) -> None:
        self._failures.failed(why, f"a stream was refused: {why}; see memory-budget and max-streams")

    @property
    def stands(self) -> bool:
        """It carries streams, and is to go on doing so."""
        return (
            self.up_at is not None and not self.link.ended and not self.retiring and not self.leaving.is_set()
        )

    @property
    def lived(self) -> float:
        """Seconds since the server's hello."""
        return 0.0 if self.up_at is None else trio.current_time() - self.up_at

    def give_up(self, why: str) -> None:
        """Close one that is not up."""
        self.given_up = True
        self.link.close(why)

    def over(self) -> None:
        """It has ended."""
        self.ended.set()
        self.known.set()

    def _on_hello(self, said: Hello | None) -> None:
        self.up_at = trio.current_time()
        log.info(
            "linked to %s as %s",
            self.server,
            self.node,
            extra={"server_version": said.version if said else ""},
        )
        self.known.set()
        self._on_up(self)

    def _on_drain(self, text: str, detail: str) -> None:
        reason = DrainReason.read(text)
        self.refused = reason in _REFUSED_AS_A_WHOLE
        if reason in _USELESS:
            self._on_useless(self.serial, f"the server refuses it: {detail or text}")
        self._explain(reason, f" ({detail})" if detail else "")
        if reason in _LEAVING:
            self.leaving.set()

    def _explain(self, reason: DrainReason, said: str) -> None:
        match reason:
            case DrainReason.DUPLICATE:
                log.error(
                    "%s: another machine is linked with the certificate of %s%s: a cloned image? "
                    "Join one of them again, with a token of its own (`tunnelctl token create`)",
                    self.server,
                    self.node,
                    said,
                )
            case DrainReason.REVOKED:
                log.error(
                    "%s: the certificate of %s was revoked%s: join again, if that is wanted",
                    self.server,
                    self.node,
                    said,
                )
            case DrainReason.EXPIRED:
                log.error(
                    "%s: the certificate of %s is not valid by the server's clock%s: if that clock is right, "
                    "join again (`tunnel-agent join`)",
                    self.server,
                    self.node,
                    said,
                )
            case _:
                log.info("%s retires this link: %s%s", self.server, reason.value, said)
