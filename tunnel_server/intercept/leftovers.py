"""Taking away what a dead server left: what `tunnelctl cleanup` does."""

from __future__ import annotations

from tunnel_server.intercept import table
from tunnel_server.intercept.config import InterceptUnavailable
from tunnel_server.intercept.netlink import NETLINK_NETFILTER, NetlinkError, NetlinkSocket
from tunnel_server.intercept.ownership import find_table, unavailable
from tunnel_server.intercept.routes import Routes


class ServerRunning(InterceptUnavailable):
    """There is nothing left over: a living server uses it."""


def cleanup() -> list[str]:
    """Remove the table and the routes of a server that is no more; each thing removed, in words.

    Raises ServerRunning, with nothing changed, while a server holds the table, and InterceptUnavailable
    without the privilege.
    """
    removed: list[str] = []
    try:
        with NetlinkSocket(NETLINK_NETFILTER) as netfilter:
            found = find_table(netfilter)
            if found is not None:
                if found.is_in_use():
                    raise ServerRunning(
                        f"a running server, {found.describe_owner()}, uses the table inet {table.NAME}: "
                        "it takes everything away by itself when it is stopped"
                    )
                netfilter.transact(table.delete())
                removed.append(f"table inet {table.NAME}")
        routes = Routes()
        try:
            routes.added = routes.leftovers()
            gone = routes.remove(routes.added)
        finally:
            routes.close()
    except NetlinkError as error:
        raise unavailable(error) from error
    return removed + [f"route to {address} over lo" for address in gone]
