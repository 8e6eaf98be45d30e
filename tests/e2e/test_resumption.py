"""Transfers run through everything that befalls an uplink: each waits, and loses no byte."""

import time
from collections.abc import Callable, Mapping

import pytest

from tests.e2e.network import dropping, rebind
from tests.e2e.system import EDGE_1, System, resident
from tests.e2e.transfers import A_FEW, A_HUNDRED, Transfers

CUT = 14.0
"""Seconds: the server has given the link up by then."""
MEDIAN, BUSY = 2.0, 3.0
"""Seconds to the first byte, at the median of the downloads; the second where other work may be going on."""
ELSEWHERE = "192.168.2.77"
"""The address that the edge dials from after the cut."""


@pytest.mark.alone
@pytest.mark.parametrize(
    ("kinds", "cut", "links"),
    [
        pytest.param(A_FEW, CUT, 1, id="short"),
        pytest.param(A_FEW, CUT, 2, id="two-links", marks=pytest.mark.long),
        pytest.param(A_HUNDRED, 60.0, 1, id="long", marks=[pytest.mark.long, pytest.mark.timeout(400)]),
    ],
)
def test_transfers_lose_nothing(
    deploy: Callable[..., System],
    figure: Callable[[str, float], None],
    kinds: Mapping[str, int],
    cut: float,
    links: int,
) -> None:
    own = deploy()
    own.start_server()
    edge, nat = own.topology.edge(1), own.topology.host("nat")
    own.add_edge(edge, links=links)
    transfers = Transfers(own, kinds, 7 if kinds is A_FEW else 30)
    transfers.start()
    every = sum(kinds.values())
    own.until(lambda: own.nodes()["edge-1"]["open_calls"] == every, "server", "edge-1")
    own.until(lambda: min(transfers.arrived()) > 0, "server", "edge-1")

    before, began = transfers.arrived(), time.monotonic()
    rebind(nat, nat.address, "203.0.113.12")
    usual, most = transfers.first_bytes(began, before)
    figure("s from another NAT address to the first byte, median of the downloads", usual)
    figure("s ..., the last of them", most)
    within = MEDIAN if kinds is A_HUNDRED else BUSY
    assert usual < within

    # Silence; and when it ends, the edge has another address, whose old one leads nowhere.
    with dropping(nat, f"ip saddr {EDGE_1}"):
        with dropping(nat):
            time.sleep(cut - 1)
            own.until(lambda: not own.connected(), "server")
            waiting, before = own.nodes()["edge-1"]["suspended_calls"], transfers.arrived()
            for command in (
                f"ip address add {ELSEWHERE}/24 dev lan",
                f"ip route replace default via 192.168.2.1 src {ELSEWHERE}",
            ):
                assert edge.run(command.split()).returncode == 0, command
            time.sleep(1)
            assert transfers.arrived() == before
            assert transfers.open() == waiting == every
            for name in ("server", "edge-1"):
                figure(
                    f"MiB that {name} holds with {waiting} calls waiting", resident(own.processes[name].pid)
                )
        usual, most = transfers.first_bytes(time.monotonic(), before)
        figure(f"s from the end of a cut of {cut:.0f} s to the first byte, median of the downloads", usual)
        figure("s ..., the last of them", most)
        transfers.finish()
    assert usual < within
    assert own.nodes()["edge-1"]["suspended_calls"] == 0
    assert len(own.nodes()["edge-1"]["links"]) == links
