"""Transparent interception as the server uses it: started, fed with addresses and ports, guarded, taken away.

Everything that touches the kernel runs in one worker thread at a time (a private limiter of one), because a
transaction waits for the kernel's RCU, tens of milliseconds in which no byte would move. Measured on 2 cores:
one address more or less among 1,000 takes 6 to 16 ms; 1,000 at once 0.1 s, and 0.3 s if each needs a route;
10,000 take 0.5 s and 1.5 s.
"""

from __future__ import annotations

import logging
import struct
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

import trio

from tunnel_server.intercept import table
from tunnel_server.intercept.config import (
    Address,
    Change,
    InterceptConfig,
    InterceptUnavailable,
    Refusal,
    Statistics,
)
from tunnel_server.intercept.kernel import KernelState
from tunnel_server.intercept.messages import RTM_DELROUTE, SUBSYSTEM_NFTABLES
from tunnel_server.intercept.netlink import (
    GROUP_IPV4_ROUTE,
    GROUP_IPV6_ROUTE,
    GROUP_LINK,
    GROUP_NFTABLES,
    NETLINK_NETFILTER,
    NETLINK_ROUTE,
    NetlinkSocket,
)
from tunnel_server.intercept.ownership import unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping

    from tunnel_server.intercept.held_table import Predecessor

logger = logging.getLogger(__name__)

T = TypeVar("T")

_REMOVAL_DEADLINE = 10.0  # seconds
_WATCH_PAUSE = 0.1  # seconds in which notifications gather: other tables may change a thousand times
_RESTORE_PAUSE = 1.0  # seconds between two restorations, should somebody insist on removing the table
_ROUTES_PAUSE = 5.0  # seconds between two looks at all routes, should they flap
_RTM_NEWLINK, _RTM_DELLINK, _IFF_UP = 16, 17, 1


class Interception:
    """Captures connections to edge addresses on mapped ports while `run` runs."""

    def __init__(self, config: InterceptConfig, predecessor: Predecessor | None = None) -> None:
        self._config = config
        self._predecessor = predecessor
        self._watching = trio.CancelScope()
        self._limiter = trio.CapacityLimiter(1)
        self._kernel: KernelState | None = None
        self._alarm = trio.Event()
        self._tampered = False
        self._refused: tuple[Refusal, ...] = ()
        self._restored = 0
        self._problem: str | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Build the table, then see that it stays, until cancelled; then take table and routes away.

        Started once the table stands; it captures nothing before the first `apply`. Raises
        InterceptUnavailable, with nothing changed, where interception cannot be had.
        """
        kernel = await self._in_thread(lambda: KernelState(self._config, self._predecessor))
        self._kernel = kernel
        try:
            with (
                NetlinkSocket(NETLINK_NETFILTER, [GROUP_NFTABLES]) as tables,
                NetlinkSocket(NETLINK_ROUTE, [GROUP_LINK, GROUP_IPV4_ROUTE, GROUP_IPV6_ROUTE]) as routes,
                self._watching,
            ):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._watch_table, tables, kernel)
                    nursery.start_soon(self._keep_table)
                    nursery.start_soon(self._keep_routes, routes)
                    logger.info(
                        "interception is ready (table inet %s, owner flag: %s)", table.NAME, kernel.owned
                    )
                    task_status.started()
        except OSError as error:
            raise unavailable(error) from error
        finally:
            self._kernel = None
            with trio.move_on_after(_REMOVAL_DEADLINE, shield=True):
                await self._in_thread(kernel.remove)

    async def apply(
        self,
        addresses: Collection[Address],
        ports: Mapping[int, int],
        config: InterceptConfig | None = None,
    ) -> Change:
        """Capture exactly these addresses on these ports (captured port: listener's port) from now on.

        With a `config`, for its callers. Only differences are changed: what is captured before and after is
        so all the while, and connections that stand are not touched. Addresses that must never be captured
        are refused, each with its reason, and the others stand.

        Raises InterceptUnavailable if the kernel refuses, and ValueError for a port outside 1-65535; both
        with nothing changed. RuntimeError while `run` is not running, and if another server has got the
        table before it was this call's turn. Cancelled before it began, it did nothing; once begun, it ends
        in milliseconds and is not interrupted.
        """
        wanted, mapping = frozenset(addresses), dict(ports)
        try:
            change = await self._in_kernel(lambda kernel: kernel.apply(wanted, mapping, config))
        except OSError as error:  # above all when `run` ended while this waited for its turn
            raise unavailable(error) from error
        for refusal in change.refused:
            if refusal not in self._refused:
                logger.warning("not captured: %s", refusal)
        _warn_unrouted(change.unrouted)
        self._refused = change.refused
        return change

    @asynccontextmanager
    async def lend(self) -> AsyncIterator[KernelState]:
        """Inside, another server may change table and routes, and this one does not.

        If the block calls the state's `leave` they are the other's for good, and `run` ends; otherwise they
        are made as they were. Raises RuntimeError while `run` is not running.
        """
        async with self._limiter:
            kernel = self._held()
            try:
                yield kernel
            finally:
                if kernel.stays:
                    self._kernel = None
                    self._watching.cancel()
                else:
                    with trio.CancelScope(shield=True):
                        await trio.to_thread.run_sync(self._recover, kernel)

    def _recover(self, kernel: KernelState) -> None:
        try:
            kernel.recover()
        except InterceptUnavailable as error:
            logger.error("the table inet %s may not be as it should be: %s", table.NAME, error)  # noqa: TRY400

    def own(self) -> None:
        """The predecessor has gone: what it has lent is ours."""
        if self._kernel is not None:
            self._kernel.own()

    def statistics(self) -> Statistics:
        """The state at this moment."""
        kernel = self._kernel
        return Statistics(
            active=kernel is not None and self._problem is None,
            owned=kernel is not None and kernel.owned,
            addresses=tuple(sorted(kernel.addresses, key=lambda a: (a.version, a.packed))) if kernel else (),
            ports=dict(kernel.ports) if kernel else {},
            routes=tuple(sorted(kernel.routes, key=lambda a: (a.version, a.packed))) if kernel else (),
            refused=self._refused,
            restored=self._restored,
            problem=self._problem,
        )

    async def _in_kernel(self, work: Callable[[KernelState], T]) -> T:
        """Once it is its turn: by then the table may be another server's."""
        return await self._in_thread(lambda: work(self._held()))

    def _held(self) -> KernelState:
        if self._kernel is None:
            raise RuntimeError("interception is not running")
        return self._kernel

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(work, limiter=self._limiter)

    async def _watch_table(self, tables: NetlinkSocket, kernel: KernelState) -> None:
        """Raise the alarm when somebody else touches our table (which the owner flag prevents)."""
        while True:
            await trio.lowlevel.wait_readable(tables.socket)
            heard = tables.heard()
            if heard is None:
                self._alarm.set()
            elif any(
                port != kernel.port and kind >> 8 == SUBSYSTEM_NFTABLES and _names_our_table(payload)
                for kind, port, payload in heard
            ):
                self._tampered = True
                self._alarm.set()
            await trio.sleep(_WATCH_PAUSE)

    async def _keep_table(self) -> None:
        while True:
            with trio.move_on_after(self._config.restore_interval):
                await self._alarm.wait()
            self._alarm = trio.Event()
            tampered, self._tampered = self._tampered, False
            try:
                if not tampered and await self._in_kernel(KernelState.check):
                    self._problem = None
                    continue
                await self._in_kernel(KernelState.build)
            except InterceptUnavailable as error:
                if self._problem is None:
                    logger.error("the table inet %s is not as it should be: %s", table.NAME, error)  # noqa: TRY400 - one line
                self._problem = str(error)
            else:
                self._problem = None
                self._restored += 1
                logger.warning(
                    "somebody had changed or removed the table inet %s: it is restored", table.NAME
                )
            await trio.sleep(_RESTORE_PAUSE)

    async def _keep_routes(self, routes: NetlinkSocket) -> None:
        """When the host loses a route (its default route, say), add ours where none is left."""
        while True:
            await trio.lowlevel.wait_readable(routes.socket)
            heard = routes.heard()
            if heard is None or any(_loses_a_route(kind, payload) for kind, _port, payload in heard):
                try:
                    unrouted = await self._in_kernel(KernelState.mend_routes)
                except OSError as error:
                    logger.warning("could not look after the routes to edge addresses: %s", error)
                else:
                    _warn_unrouted(unrouted)
            await trio.sleep(_ROUTES_PAUSE)


def _warn_unrouted(unrouted: Iterable[Refusal]) -> None:
    for refusal in unrouted:
        logger.warning("callers on this host cannot reach %s", refusal)


def _names_our_table(payload: bytes) -> bool:
    # struct nfgenmsg, then the first attribute: in all but NEWGEN that is the table's name.
    (length,) = struct.unpack_from("=H", payload, 4)
    return payload[8 : 4 + length] == table.NAME.encode() + b"\0"


def _loses_a_route(kind: int, payload: bytes) -> bool:
    # An interface that goes down takes its IPv4 routes along, and the kernel announces only the interface.
    if kind == _RTM_NEWLINK:
        (flags,) = struct.unpack_from("=I", payload, 8)  # struct ifinfomsg
        return not flags & _IFF_UP
    return kind in {RTM_DELROUTE, _RTM_DELLINK}
