"""konnectivity, in Go: Kubernetes' apiserver-network-proxy, gRPC over mutual TLS.

Install: from its source (Go module sigs.k8s.io/apiserver-network-proxy, in a checkout with its nested module
konnectivity-client): `go build -o proxy-server ./cmd/server`, `go build -o proxy-agent ./cmd/agent`; both in
a folder on PATH. Run with 0.36.0.

It has no listener for a fixed target: a caller, kube-apiserver, says where to with an HTTP CONNECT on a Unix
socket. For callers that cannot, `connect_entrance.py` stands in front: it counts for neither end's CPU time
and memory, and passes several times what konnectivity does, but adds some 30 us to an echo.

An agent says at which addresses it is (127.0.0.1 is the first, 127.0.0.2 the second, ...: the target listens
at each), and the strategy destHost chooses it by the caller's; by default any agent would be as good.
"""

from dataclasses import dataclass

from bench.peers.binaries import find
from bench.peers.configuration import connect_entrance, with_port
from bench.peers.peer import Absent, Stage
from bench.peers.programs import Programs


@dataclass(frozen=True)
class Konnectivity:
    name: str = "konnectivity"
    encrypted: bool = True
    one_line: str = "gRPC over mutual TLS; HTTP CONNECT on a Unix socket, behind a small relay of the suite's"

    def available(self) -> Absent | str:
        server = find("proxy-server")
        if not (server and find("proxy-agent")):
            return Absent("not installed: put proxy-server and proxy-agent on PATH")
        return "-"  # neither program tells its version

    def start(self, stage: Stage) -> Programs:
        programs = Programs(stage, entrance=("127.0.0.1", stage.free_port()))
        files, socket = stage.certificates, stage.scratch / "konnectivity.socket"
        server = {
            "mode": "http-connect",
            "uds-name": socket,
            "server-port": 0,
            "agent-bind-address": stage.wan_server[0],
            "agent-port": stage.wan_server[1],
            "cluster-cert": files.server,
            "cluster-key": files.server_key,
            "cluster-ca-cert": files.authority,
            "health-bind-address": "127.0.0.1",
            "health-port": stage.free_port(),
            "admin-port": stage.free_port(),
            "proxy-strategies": "destHost",
        }

        def start_agent(number: int, entrance: tuple[str, int]) -> None:
            address = f"127.0.0.{number}"
            agent = {
                "proxy-server-host": stage.wan_dial[0],
                "proxy-server-port": stage.wan_dial[1],
                "agent-id": f"edge-{number}",
                "agent-identifiers": f"ipv4={address}",
                "agent-cert": files.agent,
                "agent-key": files.agent_key,
                "ca-cert": files.authority,
                "health-server-port": stage.free_port(),
                "admin-server-port": stage.free_port(),
            }
            programs.launch("agent", [find("proxy-agent") or "proxy-agent", *_flags(agent)])
            target = with_port((address, stage.target[1]))
            programs.launch("entrance", connect_entrance(entrance, socket, target))

        with programs.starting():
            programs.launch("server", [find("proxy-server") or "proxy-server", *_flags(server)])
            programs.wait_until_it_listens(stage.wan_server)
            start_agent(1, programs.entrance)
            programs.wait_until_it_carries()
            programs.start_agent = start_agent
        return programs


def _flags(values: dict[str, object]) -> list[str]:
    return [f"--{name}={value}" for name, value in values.items()]


PEERS = (Konnectivity(),)
