"""Cleaning up after a server that is no more, and never under one that runs."""

import os
from ipaddress import ip_address

import pytest

from tests.tunnel_server.intercept.netns import namespaces
from tunnel_server.intercept import table
from tunnel_server.intercept.config import InterceptConfig
from tunnel_server.intercept.kernel import KernelState
from tunnel_server.intercept.leftovers import ServerRunning, cleanup
from tunnel_server.intercept.netlink import NETLINK_NETFILTER, NetlinkSocket
from tunnel_server.intercept.routes import Routes

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces: needs root")


def test_the_table_and_the_routes_go_and_are_named():
    def work() -> None:
        with NetlinkSocket(NETLINK_NETFILTER) as dead:
            dead.transact(table.build(InterceptConfig(), port=dead.port, owned=False))
        routes = Routes()
        routes.add([ip_address("192.168.2.143"), ip_address("fd00:2::143")])
        routes.close()
        assert cleanup() == [
            "table inet edge-tunnel",
            "route to 192.168.2.143 over lo",
            "route to fd00:2::143 over lo",
        ]
        assert cleanup() == []

    with namespaces("host") as (host,):
        host.run(work)


def test_a_running_server_keeps_what_it_has():
    def work() -> None:
        state = KernelState(InterceptConfig())
        state.apply([ip_address("192.168.2.143")], {})
        with pytest.raises(ServerRunning, match="takes everything away by itself"):
            cleanup()
        assert state.check()
        assert state.routes
        state.remove()
        assert cleanup() == []

    with namespaces("host") as (host,):
        host.run(work)
