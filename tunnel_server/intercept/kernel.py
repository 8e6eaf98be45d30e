"""The kernel's side of interception: one table and some routes, kept as they are wanted.

Synchronous; a call takes milliseconds. One thread at a time: `interception.py` sees to that.
"""

from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING

from tunnel_server.intercept import low_descriptor, table
from tunnel_server.intercept.config import (
    Address,
    Change,
    InterceptConfig,
    InterceptUnavailable,
    Refusal,
)
from tunnel_server.intercept.connections import connected_to
from tunnel_server.intercept.held_table import HeldTable, layout
from tunnel_server.intercept.netlink import NETLINK_NETFILTER, NetlinkError, NetlinkSocket
from tunnel_server.intercept.ownership import find_table, in_use, unavailable
from tunnel_server.intercept.routes import Reach, Routes, never_capturable

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from tunnel_server.intercept.held_table import Predecessor
    from tunnel_server.intercept.messages import Message


logger = logging.getLogger(__name__)

_NO_SUCH_FLAG = {errno.EINVAL, errno.EOPNOTSUPP}


class KernelState:
    """What we hold in the kernel: from `__init__`, which makes it, to `remove`."""

    def __init__(self, config: InterceptConfig, predecessor: Predecessor | None = None) -> None:
        """Build the table in one transaction, in place of a dead server's; adopt the routes that one left.

        Of a `predecessor`, which lives, take the table as it stands: it captures all the while.
        Raises InterceptUnavailable, with nothing changed.
        """
        self._config = config
        self.addresses: frozenset[Address] = frozenset()
        self.ports: dict[int, int] = {}
        self.owned = True
        self._caller_changes = 0
        self._handle = 0
        self.stays = predecessor is not None
        """Table and routes are another server's, too: they outlive this one."""
        self._unknown = predecessor is not None and predecessor.held is None
        """What stands there is another release's: left as it is until what is wanted is known."""
        owner = predecessor.owner if predecessor else None
        try:
            self._netfilter = NetlinkSocket(NETLINK_NETFILTER, descriptor=owner)
            self._netfilter.socket = low_descriptor.move(self._netfilter.socket)
        except OSError as error:
            raise unavailable(error) from error
        try:
            self._routes = Routes()
        except BaseException:
            self._netfilter.close()
            raise
        try:
            self._check_prerouting_addresses(config)
            if predecessor is None or not (self._unknown or self._adopt(predecessor.held, config)):
                self.build()
            self._routes.added = self._routes.leftovers()
        except OSError as error:
            self._close()
            raise unavailable(error) from error
        except BaseException:
            self._close()
            raise

    def _adopt(self, held: HeldTable | None, config: InterceptConfig) -> bool:
        """Know what is there; whether the table can be left as it stands, but for callers of `config`."""
        if held is None:
            return False
        self.owned, self.addresses, self.ports = held.owned, held.addresses, held.ports
        self._handle, self._caller_changes = held.handle, held.caller_changes
        if held.layout != layout() or not self._is_intact():
            return False
        self._config = held.callers
        self._exchange(self.addresses, self.ports, config)
        return True

    def held(self) -> HeldTable:
        """What there is, for the server that comes after this one."""
        return HeldTable(
            layout(),
            self._handle,
            self.owned,
            self.addresses,
            self.ports,
            self._config,
            self._caller_changes,
        )

    @property
    def owner(self) -> int:
        """The descriptor by which the kernel knows us."""
        return self._netfilter.socket.fileno()

    def leave(self) -> None:
        """The table and the routes are another server's now: `remove` leaves them."""
        self.stays = True

    def own(self) -> None:
        """What the predecessor has lent is ours: `remove` removes it."""
        self.stays = False

    def recover(self) -> None:
        """A server that was to come after this one has not: nobody knows what it has changed.

        Raises InterceptUnavailable.
        """
        try:
            self._netfilter.discard()
            self._routes.added |= self._routes.leftovers()
        except OSError as error:
            raise unavailable(error) from error
        self.build()

    @property
    def port(self) -> int:
        """The netlink port that our changes to the table come from."""
        return self._netfilter.port

    @property
    def routes(self) -> frozenset[Address]:
        """Addresses for which a route was added."""
        return frozenset(self._routes.added)

    def build(self) -> None:
        """Make the table with all it should hold, in one transaction, whatever stood there before.

        Raises InterceptUnavailable, with nothing changed, above all if another living server holds it.
        """
        found = find_table(self._netfilter)
        if found is not None and found.owner != self.port and found.is_in_use():
            raise in_use(found)
        elements = table.difference(((), {}), (self.addresses, self.ports))
        try:
            try:
                self._transact(elements)
            except NetlinkError as error:
                if not (self.owned and error.errno in _NO_SUCH_FLAG and error.label == f"table {table.NAME}"):
                    raise
                self.owned = False
                logger.info("this kernel has no owner flag: the table is watched instead")
                self._transact(elements)
        except NetlinkError as error:
            if error.errno in {errno.EPERM, errno.EBUSY} and (now := find_table(self._netfilter)) is not None:
                raise in_use(now) from error
            raise unavailable(error) from error
        made = find_table(self._netfilter)
        self._handle = made.handle if made else 0
        self._unknown = False

    def check(self) -> bool:
        """The table that we built is there. Removes, on the way, routes that served only old connections.

        Raises InterceptUnavailable.
        """
        if self._unknown:
            return True
        self._remove_idle_routes()
        return self._is_intact()

    def _is_intact(self) -> bool:
        found = find_table(self._netfilter)
        return found is not None and found.handle == self._handle

    def apply(
        self,
        addresses: Collection[Address],
        ports: Mapping[int, int],
        config: InterceptConfig | None = None,
    ) -> Change:
        """Make these the captured ones, and `config` the one in force, by differences.

        In one transaction, and callers before it in three of their own (`table.py` says why); no packet of
        what is captured before and after goes by meanwhile.

        Raises InterceptUnavailable or ValueError, with nothing changed.
        """
        config = config or self._config
        for port, target in ports.items():
            if not (0 < port < 65536 and 0 < target < 65536):
                raise ValueError(f"port mapping {port}={target} is outside 1-65535")
        new = set(addresses) - self.addresses
        try:
            if config != self._config:
                self._check_prerouting_addresses(config)
            reach = self._routes.look_up([address for address in new if never_capturable(address) is None])
        except NetlinkError as error:
            raise unavailable(error) from error
        refused = {address: reason for address in new if (reason := _refusal(address, reach))}
        wanted = frozenset(addresses) - refused.keys()
        for address in sorted(wanted - self.addresses, key=_order)[self._room(wanted, config) :]:
            refused[address] = f"more than {config.max_addresses} addresses are captured"
        wanted -= refused.keys()
        old_ports = self.ports
        gone, come = self.addresses - wanted, wanted - self.addresses
        self._exchange(wanted, dict(ports), config)
        self._remove_idle_routes()
        unrouted = self._routes.add([a for a in sorted(come, key=_order) if reach[a] is Reach.NOWHERE])
        return Change(
            added=tuple(sorted(come, key=_order)),
            removed=tuple(sorted(gone, key=_order)),
            ports_set={port: to for port, to in ports.items() if old_ports.get(port) != to},
            ports_removed=tuple(sorted(old_ports.keys() - ports.keys())),
            refused=tuple(Refusal(address, refused[address]) for address in sorted(refused, key=_order)),
            unrouted=tuple(unrouted),
        )

    def mend_routes(self) -> list[Refusal]:
        """Add routes where captured addresses have lost theirs; what did not work, and why."""
        reach = self._routes.look_up(sorted(self.addresses, key=_order))
        lost = [address for address, where in reach.items() if where is Reach.NOWHERE]
        self._routes.added -= set(lost)
        return self._routes.add(lost)

    def remove(self) -> None:
        """Take away the routes and the table, unless they are another server's, and close. Never raises."""
        if self.stays:
            self._close()
            return
        try:
            self._routes.remove(self._routes.added)
            if self._is_intact():
                self._netfilter.transact(table.delete())
        except (OSError, InterceptUnavailable) as error:
            logger.warning(
                "could not take away what interception had set up, try `tunnelctl cleanup`: %s", error
            )
        finally:
            self._close()

    def _remove_idle_routes(self) -> None:
        unwanted = self._routes.added - self.addresses
        try:
            self._routes.remove(unwanted - connected_to(unwanted))
        except OSError as error:  # they do no harm, and the next time may do better
            logger.warning("could not remove routes that serve nothing any more: %s", error)

    def _exchange(
        self, addresses: frozenset[Address], ports: dict[int, int], config: InterceptConfig
    ) -> None:
        old = self.addresses, self.ports, self._config, self._caller_changes
        callers = table.change_callers(self._config, config, self._caller_changes)
        elements = table.difference(old[:2], (addresses, ports))
        self.addresses, self.ports, self._config = addresses, ports, config
        self._caller_changes += bool(callers)
        try:
            try:
                if self._unknown:
                    self.build()
                    return
                for changes in [*callers, elements] if elements else callers:
                    self._netfilter.transact(changes)
            except NetlinkError:  # somebody removed the table, or changed it, just now
                self.build()
        except BaseException:
            self.addresses, self.ports, self._config, self._caller_changes = old
            raise

    def _transact(self, elements: list[Message]) -> None:
        made = table.build(self._config, port=self.port, owned=self.owned, change=self._caller_changes)
        self._netfilter.transact([*made, *elements])

    def _check_prerouting_addresses(self, config: InterceptConfig) -> None:
        addresses = [address for address, _networks in config.prerouting()]
        for address, where in self._routes.look_up(addresses).items():
            if where is not Reach.LOCAL:
                raise InterceptUnavailable(
                    f"prerouting-address {address} is not an address of this host: give one that it has"
                )

    def _room(self, wanted: frozenset[Address], config: InterceptConfig) -> int:
        return max(0, config.max_addresses - len(wanted & self.addresses))

    def _close(self) -> None:
        self._routes.close()
        self._netfilter.close()


def _refusal(address: Address, reach: Mapping[Address, Reach]) -> str | None:
    reason = never_capturable(address)
    if reason is None and reach[address] not in {Reach.ELSEWHERE, Reach.NOWHERE}:
        return str(reach[address])
    return reason


def _order(address: Address) -> tuple[int, bytes]:
    return address.version, address.packed
