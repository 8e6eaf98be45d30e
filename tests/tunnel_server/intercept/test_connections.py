"""Who is connected, in this network namespace and no other."""

import os
import socket
from ipaddress import ip_address

import pytest

from tests.tunnel_server.intercept.netns import namespaces
from tunnel_server.intercept.connections import connected_to

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces: needs root")


@pytest.mark.parametrize("address", ["127.0.0.7", "::1", "::ffff:127.0.0.7"])
def test_a_connection_is_seen_while_it_lasts(address):
    def work() -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        there = ip_address("127.0.0.7" if "127" in address else address)
        others = [ip_address("127.0.0.8"), ip_address("::2")]
        bind = ("127.0.0.7", 0) if "127" in address else ("::1", 0)
        listener = socket.create_server(bind, family=socket.AF_INET if "127" in address else family)
        with listener, socket.socket(family) as caller:
            assert connected_to([there, *others]) == set()
            caller.connect((address, listener.getsockname()[1]))
            accepted, _ = listener.accept()
            with accepted:
                assert connected_to([there, *others]) == {there}
                caller.shutdown(socket.SHUT_WR)
                assert connected_to([there]) == {there}
        assert connected_to([]) == set()

    with namespaces("host", "elsewhere") as (host, elsewhere):
        host.run(work)
        assert elsewhere.run(lambda: connected_to([ip_address("127.0.0.7"), ip_address("::1")])) == set()
