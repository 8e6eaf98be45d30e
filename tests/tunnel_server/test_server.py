"""A whole server process in the test's own event loop, without interception: it starts, answers, stops."""

import json
import os
import signal
import socket
from ipaddress import IPv4Address
from pathlib import Path

import pytest
import trio

from certs.files import StateDirectory
from certs.server_state import initialise
from tests.tunnel_server.core import meets_reset
from tunnel_daemon.program import ProgramError
from tunnel_server.config import ServerConfig
from tunnel_server.endpoints import FixedListener
from tunnel_server.server import Server


@pytest.fixture
def config(tmp_path: Path) -> ServerConfig:
    state = StateDirectory.create(tmp_path / "state")
    initialise(state, addresses=(IPv4Address("127.0.0.1"),))
    return ServerConfig(
        state_dir=state.path,
        bind_address=(IPv4Address("127.0.0.1"),),
        tunnel_port=0,
        secure_port=0,
        insecure_port=0,
        meta_port=0,
        admin_socket=tmp_path / "admin.sock",
        intercept=False,
        dnat_ports_pair="9081, nonsense",
        listen=(FixedListener("127.0.0.1", 0, "edge-1", 80),),
    )


async def _get(path: str, *, unix: Path | None = None, port: int = 0) -> tuple[int, bytes]:
    stream = await (trio.open_unix_socket(str(unix)) if unix else trio.open_tcp_stream("127.0.0.1", port))
    async with stream:
        await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join([part async for part in stream])
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


async def _listening(socket_path: Path) -> dict[str, int]:
    """The server's ports by name, once it is ready."""
    with trio.fail_after(10):
        while not socket_path.exists():
            await trio.sleep(0.02)
        while True:
            _, body = await _get("/v1/status", unix=socket_path)
            ports = {
                each["name"]: int(each["address"].rsplit(":")[-1])
                for each in json.loads(body)["listeners"]
                if each["name"] != "connect"
            }
            if "tunnel" in ports:
                return ports
            await trio.sleep(0.02)


async def test_it_starts_answers_and_stops_at_sigterm(config: ServerConfig) -> None:
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Server(config).run)
            ports = await _listening(config.admin_socket)
            assert await _get("/healthz", port=ports["meta"]) == (200, b"ok\n")
            assert (await _get("/readyz", port=ports["meta"]))[0] == 200
            _, metrics = await _get("/metrics", port=ports["meta"])
            assert b"edge_tunnel_nodes_connected 0.0" in metrics
            _, body = await _get("/v1/status", unix=config.admin_socket)
            status = json.loads(body)
            assert status["interception"]["state"] == "off"
            assert [each["port"] for each in status["mappings"]] == [9081, 10250, 10255]
            assert status["mapping_problems"] == [
                'dnat-ports-pair: "nonsense" names "nonsense", which is not a port from 1 to 65535'
            ]
            os.kill(os.getpid(), signal.SIGTERM)
    assert not config.admin_socket.exists()


async def test_a_call_to_a_node_that_never_came_is_reset_and_told(config: ServerConfig) -> None:
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Server(config).run)
            ports = await _listening(config.admin_socket)
            await meets_reset(("127.0.0.1", ports["fixed"]))
            _, body = await _get("/v1/status", unix=config.admin_socket)
            (failure,) = json.loads(body)["recent_failures"]
            assert (failure["cause"], failure["frontend"]) == ("no-such-node", "fixed")
            assert failure["target"] == "edge-1:80"
            nursery.cancel_scope.cancel()


async def test_a_taken_port_is_named(config: ServerConfig) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        entry = FixedListener("127.0.0.1", port, "edge-1", 80)
        server = Server(ServerConfig(**{**_fields(config), "listen": (entry,)}))
        with pytest.RaisesGroup(pytest.RaisesExc(ProgramError, match=f"127.0.0.1:{port}: this program has")):
            await server.run()


def _fields(config: ServerConfig) -> dict[str, object]:
    return {name: getattr(config, name) for name in config.__dataclass_fields__}
