"""A server that stops behind a slow line, in which what it sends queues for seconds.

Fifteen seconds: the queue has to fill.
"""

import contextlib
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.network import accept, dial, listen, read_to_end
from tests.e2e.system import EDGE_1, System, curl_json
from tunnelctl.demo.topology import Host

SLOW = "tbf rate 1600kbit burst 16k latency 5000ms"
"""200 kB/s."""
SIZE = 1 << 20


@contextlib.contextmanager
def slow(router: Host, interface: str) -> Iterator[None]:
    """Have what `router` sends through an interface queue there."""
    made = router.run(["tc", "qdisc", "add", "dev", interface, "root", *SLOW.split()])
    if "unknown" in made.stderr:
        pytest.skip("this kernel has no tbf, which makes a line slow")
    assert made.returncode == 0, made.stderr
    try:
        yield
    finally:
        router.run(["tc", "qdisc", "del", "dev", interface, "root"])


def test_what_callers_have_sent_arrives_and_what_is_open_is_reset(deploy: Callable[..., System]) -> None:
    own = deploy()
    edge, cloud = own.topology.edge(1), own.topology.cloud
    own.start_server(**{"limits.drain-timeout": 20})
    own.add_edge(edge, backoff_max=1)
    own.map_port("9082=10264")
    address = (EDGE_1, 9082)
    with (
        slow(own.topology.host("nat"), edge.name),
        listen(edge, ("0.0.0.0", 9082)) as target,
        ThreadPoolExecutor(1) as reader,
    ):
        with dial(cloud, address) as caller, accept(target) as served:
            # As `nc -l 9082 < /dev/null` does.
            served.shutdown(socket.SHUT_WR)
            arrived = reader.submit(read_to_end, served)
            caller.sendall(bytes(SIZE))
            caller.shutdown(socket.SHUT_WR)
            assert caller.recv(1) == b""
            own.until(lambda: own.status()["calls_open"] == 0, "server")
            assert not arrived.done()
            own.processes["server"].send_signal(signal.SIGTERM)
            assert len(arrived.result()) == SIZE
        assert own.processes["server"].wait(30) == 0
        own.kill("server")

        own.start_server(**{"limits.drain-timeout": 0.5})
        own.until(lambda: own.connected() == {edge.name}, "server", edge.name)
        with dial(cloud, address, timeout=3) as caller, accept(target) as served:
            with contextlib.suppress(TimeoutError):
                caller.sendall(bytes(2 * SIZE))
            own.processes["server"].send_signal(signal.SIGTERM)
            with pytest.raises(ConnectionResetError):
                read_to_end(served)
            status = "http://127.0.0.1:10266/status"
            own.until(lambda: curl_json(edge, status)["streams"] == 0, edge.name)
            assert curl_json(edge, status)["suspended"] == 0
            assert own.processes["server"].wait(30) == 0
