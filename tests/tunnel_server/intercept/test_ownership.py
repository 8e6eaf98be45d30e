"""Whose table it is: a living process's, by the kernel's word or the table's comment, or nobody's."""

import errno
import os

import pytest

from tests.tunnel_server.intercept.netns import namespaces
from tunnel_server.intercept import table
from tunnel_server.intercept.config import InterceptConfig, MissingPrivilege
from tunnel_server.intercept.netlink import NETLINK_NETFILTER, NetlinkError, NetlinkSocket
from tunnel_server.intercept.ownership import find_table, in_use, unavailable

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces: needs root")


@pytest.mark.parametrize("owned", [True, False])
def test_a_living_owner_is_named(owned):
    def work() -> None:
        with NetlinkSocket(NETLINK_NETFILTER) as owner, NetlinkSocket(NETLINK_NETFILTER) as other:
            assert find_table(other) is None
            owner.transact(table.build(InterceptConfig(), port=owner.port, owned=owned))
            found = find_table(other)
            assert found is not None
            assert (found.owner, found.owned, found.is_in_use()) == (owner.port, owned, True)
            assert found.describe_owner().startswith(f"process {os.getpid()} (")
            assert "stop that one" in str(in_use(found))

    with namespaces("host") as (host,):
        host.run(work)


def test_a_dead_owner_is_no_owner():
    def work() -> None:
        with NetlinkSocket(NETLINK_NETFILTER) as other:
            with NetlinkSocket(NETLINK_NETFILTER) as owner:
                owner.transact(table.build(InterceptConfig(), port=owner.port, owned=False))
            found = find_table(other)
            assert found is not None
            assert not found.is_in_use()
            assert "not visible from here" in found.describe_owner()

    with namespaces("host") as (host,):
        host.run(work)


def test_a_table_that_somebody_wrote_by_hand_is_nobodys():
    def work() -> None:
        with NetlinkSocket(NETLINK_NETFILTER) as sock:
            message = table.build(InterceptConfig(), port=1, owned=False)[0]  # without a comment
            sock.transact([message])
            found = find_table(sock)
            assert found is not None
            assert (found.owner, found.is_in_use()) == (None, False)

    with namespaces("host") as (host,):
        host.run(work)


def test_the_kernels_refusals_in_words():
    missing = unavailable(NetlinkError(errno.EPERM, "table edge-tunnel"))
    assert isinstance(missing, MissingPrivilege)
    assert "CAP_NET_ADMIN" in str(missing)
    other = unavailable(NetlinkError(errno.ENOENT, "rule in chain output"))
    assert "rule in chain output: No such file" in str(other)
    assert "nft_redir" in str(other)
    for error in (missing, other):
        assert "intercept = false" in str(error)
        assert "\n" not in str(error)
